"""A lease on a database, so that one run at a time loads into it, from any machine.

ClickHouse has no compare-and-set. A run that wants the lease first writes a claim and then reads the claims of others:
of two runs that start together at least one sees the other, and a run that sees another one withdraws. The claim of a
killed run is not renewed and expires by the server's clock.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress

from extract.clickhouse.client import Database
from extract.clickhouse.create import create_missing
from extract.clickhouse.errors import UndefinedRelationError
from extract.clickhouse.finished import BEGUN_LOADS, DELETED_LOADS
from extract.clickhouse.settings import RUNS_DATABASE
from extract.clickhouse.statements import load_statements
from extract.errors import OutsideError, RetriableError, TapeError, UsageError

LEASE_S = 90.0
"""A run whose claim was last renewed this long ago counts as dead."""
RENEW_EVERY_S = 20.0
CLAIM_QUORUM_MS = 20_000
"""A claim that most replicas do not have after this time is an error."""
CREATION_S = 30.0
"""Time after which new tables that cannot be used are an error."""

_STATEMENTS = load_statements(__file__, "lease.sql")
# A replica that lags behind would admit two runs.
_CONSISTENT = {"select_sequential_consistency": 1}


def create_tables_of_runs(database: Database) -> None:
    """Create those of the tables of leases and load packages that are missing."""
    # `leases` is last: if a run is killed in between, the next one creates the rest.
    names = (BEGUN_LOADS, DELETED_LOADS, "leases")
    create_missing(database, RUNS_DATABASE, {name: _STATEMENTS[f"create_{name}"] for name in names})


class AnotherRunError(UsageError):
    """Another run holds the lease."""


class Lease:
    """The lease on `database`, held within the block and renewed by a thread.

    Two leases of one `holder` never exclude each other: the newer one takes over from a run that is dead. Entering
    raises AnotherRunError, which names the holder, where another run is active, and the errors of `Database`.
    """

    def __init__(
        self,
        database: Database,
        holder: str,
        *,
        lease_s: float = LEASE_S,
        renew_every_s: float = RENEW_EVERY_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.holder = holder
        self._database = database
        self._lease_s = lease_s
        self._renew_every_s = renew_every_s
        # Not a monotonic clock, which stops while the machine is suspended.
        self._clock = clock
        self._id = uuid.uuid4().hex
        self._sign = 0
        self._valid_until_s = 0.0
        self._renewal_error: Exception | None = None
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        try:
            self._valid_until_s = self._claim(self._lease_s)
        except UndefinedRelationError:
            self._valid_until_s = self._first_claim()
        parameters = {"lease_id": self._id, "most_ms": int(LEASE_S * 1000)}
        for holder, left_ms in self._database.rows(_STATEMENTS["other_claims"], parameters, _CONSISTENT):
            if holder != self.holder:
                self._claim(0)
                raise AnotherRunError(
                    f"Another run is in progress on this database ({holder}); wait for it or stop it. "
                    f"If it was killed, its lease expires in {left_ms / 1000:.0f} s."
                )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed.set()
        self._thread.join()
        with suppress(TapeError):  # an unreleased lease expires
            self._claim(0)

    def require_held(self) -> None:
        """Raise OutsideError if the lease has expired before it was renewed. It is never valid again."""
        error = self._renewal_error
        if error and not isinstance(error, TapeError):
            raise error
        if self._clock() > self._valid_until_s:
            raise OutsideError(
                "The lease on the database could not be renewed in time, so another run may be in progress; "
                f"nothing more is loaded. Run again.{f' ({error})' if error else ''}"
            ) from error

    def register_loads(self, load_ids: Iterable[str]) -> None:
        """Record that these load packages are about to be loaded. Raises OutsideError if the lease has expired."""
        self.require_held()
        self._database.insert(
            f"{RUNS_DATABASE}.begun_loads", ([load_id] for load_id in load_ids), ["load_id"]
        )

    def _renew(self) -> None:
        while not self._is_closed.wait(self._renew_every_s):
            if self._clock() > self._valid_until_s:
                return  # another run may have deleted what this one was loading
            try:
                valid_until_s = self._claim(self._lease_s)
            except TapeError as error:  # the next renewal may succeed
                self._renewal_error = error
            except Exception as error:  # a defect, which `require_held` raises in the run itself
                self._renewal_error = error
                return
            else:
                self._renewal_error = None
                if self._clock() > self._valid_until_s:
                    return  # the claim may have arrived too late
                self._valid_until_s = valid_until_s

    def _first_claim(self) -> float:
        """Create the tables, and claim the lease as soon as other replicas have them, too."""
        deadline_s = time.monotonic() + CREATION_S
        while True:
            try:
                create_tables_of_runs(self._database)
                return self._claim(self._lease_s)
            except (UndefinedRelationError, RetriableError):
                if time.monotonic() > deadline_s:
                    raise
            time.sleep(0.2)

    def _claim(self, seconds: float) -> float:
        """Claim the lease for `seconds`, and return the end of that time by this machine's clock."""
        valid_until_s = self._clock() + seconds
        self._sign += 1
        self._database.command(
            _STATEMENTS["claim"],
            {
                "lease_id": self._id,
                "sign": self._sign,
                "holder": self.holder,
                "ms": int(seconds * 1000),
            },
            {"async_insert": 0, "insert_quorum_timeout": CLAIM_QUORUM_MS},
        )
        return valid_until_s

"""One run at a time on one database, from whichever machine: a lease that lies in the database itself.

ClickHouse has no compare-and-set. So whoever wants the lease first writes a claim and then looks for others: of two that
begin together at least one sees the other, and who sees another gives way. A claim that is not renewed, because its
run was killed, expires by the server's clock.

Beside it stands which load packages were begun. One that was begun and never finished, and is on no disk that goes on
with it, has left rows that the next run would load once more: that run takes them away, see `delete_unfinished_loads`.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from extract.clickhouse.client import supported_settings
from extract.clickhouse.settings import RAW_DATABASE
from extract.errors import OutsideError, TapeError, UsageError

LEASE_S = 90.0
"""After that long without a sign of life a run counts as dead."""
RENEWED_EVERY_S = 20.0
RUNS_DATABASE = "deribit_runs"

_TABLES = (
    f"create database if not exists {RUNS_DATABASE}",
    f"""create table if not exists {RUNS_DATABASE}.leases (
        lease_id String, sign UInt32, holder String, is_held Bool,
        at DateTime64(6, 'UTC') default now64(6), expires_at DateTime64(6, 'UTC')
    ) engine = MergeTree order by at ttl toDateTime(at) + interval 30 day""",
    f"""create table if not exists {RUNS_DATABASE}.begun_loads (
        load_id String, at DateTime64(6, 'UTC') default now64(6)
    ) engine = MergeTree order by load_id""",
)
_OTHERS = f"""
    with final as (
        select
            argMax(holder, sign) as holder,
            max(at) as seen_at,
            max(is_held) as was_held,
            dateDiff('millisecond', now64(6), argMax(expires_at, sign)) as left_ms
        from {RUNS_DATABASE}.leases
        where lease_id != {{lease_id:String}}
        group by lease_id
    )
    select holder, left_ms, was_held from final order by seen_at desc limit 100"""
_LOADS = "_dlt_loads"
_READ = {"select_sequential_consistency": 1}
"""A replica that has not heard of a claim would let two in; of a package's end, would have its rows deleted."""


class AnotherRunError(UsageError):
    """Another run holds the lease."""


class Lease:
    """Held within the block. Two leases of one `holder` never meet: the newer one takes over from a run that is dead.

    `resumes_own_run`: nobody else held it since this holder did. Raises AnotherRunError, naming the holder, where another
    run is at work.
    """

    def __init__(self, client: Client, holder: str, seconds: float = LEASE_S) -> None:
        self.holder = holder
        self.resumes_own_run = True
        self._client = client
        self._seconds = seconds
        self._id = uuid.uuid4().hex
        self._sign = 0
        self._is_held = False
        self._valid_until_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        for statement in _TABLES:
            self._client.command(statement)
        self._claim(self._seconds)
        rows = self._client.query(
            _OTHERS, {"lease_id": self._id}, settings=supported_settings(self._client, _READ)
        ).result_rows
        for holder, left_ms, _ in rows:
            if left_ms > 0 and holder != self.holder:
                self._claim(0)
                raise AnotherRunError(
                    f"Another run is at work on this database ({holder}); wait for it or stop it. "
                    f"If it was killed, it counts as dead in {left_ms / 1000:.0f} s."
                )
        self.resumes_own_run = next((holder == self.holder for holder, _, held in rows if held), True)
        self._is_held = True
        self._claim(self._seconds)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        with suppress(ClickHouseError, OSError, TapeError):  # it expires by itself
            self._claim(0)

    def begin(self, load_ids: Iterable[str]) -> None:
        """Has it written down that these packages are about to be loaded. Raises OutsideError if the lease is lost."""
        if time.time() > self._valid_until_s:
            raise OutsideError(
                "The lease on the database could not be renewed in time, so another run may be at work; "
                "nothing more is loaded. Run again."
            )
        if rows := [[load_id] for load_id in load_ids]:
            self._client.insert(f"{RUNS_DATABASE}.begun_loads", rows, column_names=["load_id"])

    def _renew(self) -> None:
        while not self._over.wait(min(RENEWED_EVERY_S, self._seconds / 4)):
            with suppress(
                ClickHouseError, OSError, TapeError
            ):  # tried again; `begin` tells if it is too late
                self._claim(self._seconds)

    def _claim(self, seconds: float) -> None:
        valid_until_s = time.time() + seconds
        self._sign += 1
        self._client.command(
            f"insert into {RUNS_DATABASE}.leases (lease_id, sign, holder, is_held, expires_at) "
            "select {lease_id:String}, {sign:UInt32}, {holder:String}, {is_held:Bool}, "
            "now64(6) + toIntervalMillisecond({ms:Int64})",
            {
                "lease_id": self._id,
                "sign": self._sign,
                "holder": self.holder,
                "is_held": self._is_held,
                "ms": int(seconds * 1000),
            },
            settings=supported_settings(self._client, {"async_insert": 0}),
        )
        self._valid_until_s = valid_until_s


def delete_unfinished_loads(client: Client) -> list[str]:
    """Takes the rows of packages away that were begun and never finished; their load ids. The caller holds the lease.

    What is still on the caller's own disk has been loaded by then.
    """
    begun = _column(client, f"select distinct load_id from {RUNS_DATABASE}.begun_loads")
    if not begun:
        return []
    tables = _column(
        client,
        f"select distinct table from system.columns where database = '{RAW_DATABASE}' "
        f"and (name = '_dlt_load_id' or table = '{_LOADS}')",
    )
    finished = (
        _column(
            client,
            f"select load_id from {RAW_DATABASE}.{_LOADS} where status = 0 and load_id in {{ids:Array(String)}}",
            begun,
        )
        if _LOADS in tables  # not so where the run was killed while it made the tables
        else []
    )
    remains = sorted(set(begun) - set(finished))
    for table in tables if remains else ():
        if table != _LOADS:
            sql = f"delete from {RAW_DATABASE}.{table} where _dlt_load_id in {{ids:Array(String)}}"
            client.command(sql, {"ids": remains})
    client.command(f"truncate table {RUNS_DATABASE}.begun_loads")
    return remains


def _column(client: Client, sql: str, ids: Sequence[str] = ()) -> list[str]:
    rows = client.query(sql, {"ids": list(ids)}, settings=supported_settings(client, _READ)).result_rows
    return [value for (value,) in rows]

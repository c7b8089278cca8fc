"""Options of a run, and how they resolve to streams and times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from extract.deribit.client import DeribitClient
from extract.deribit.config import DeribitConfig
from extract.deribit.streams import Stream
from extract.errors import UsageError
from extract.sweep.universe import Universe, expired_name, resolve_universe
from extract.times import parse_time_ms

EXPIRED_VALID_MS = 24 * 60 * 60_000
"""Time after which expired instruments are listed again: currencies and kinds may have come and gone in between."""


@dataclass(frozen=True)
class RunOptions:
    """What the user requested; None or empty for the configured value. `since_name` and `until_name` are for messages."""

    since: str | None = None
    until: str | None = None
    currencies: Sequence[str] = ()
    kinds: Sequence[str] = ()
    again: bool = False
    since_name: str = "--since"
    until_name: str = "--until"


def resolve_times(options: RunOptions, now_ms: int) -> tuple[int | None, int | None]:
    """(since, until) in ms. None means from the stored state, and until now. Raises UsageError."""
    since, until = options.since_name, options.until_name
    since_ms = parse_time_ms(options.since, since, now_ms) if options.since is not None else None
    until_ms = parse_time_ms(options.until, until, now_ms) if options.until is not None else None
    if options.again and since_ms is None:
        raise UsageError(
            "--again reads covered time once more: give its start, for example --again --since 7d."
        )
    if since_ms is not None and since_ms > now_ms:
        raise UsageError(f"{since} {options.since} is in the future; give a time in the past.")
    if since_ms is not None and until_ms is not None and since_ms >= until_ms:
        raise UsageError(f"{since} {options.since} is not before {until} {options.until}; swap them.")
    # The future cannot be covered.
    return since_ms, until_ms if until_ms is not None and until_ms < now_ms else None


def resolve_streams(
    client: DeribitClient,
    config: DeribitConfig,
    options: RunOptions,
    stored: Iterable[str] = (),
    *,
    with_expired: bool = True,
    known: Mapping[str, Any] = MappingProxyType({}),
    now_ms: int = 0,
) -> Universe:
    """The requested streams, by default all. `stored`: names of the streams in the state. `known`: that of `instruments`.

    `now_ms`: the exchange's time, with which the age of what is known is determined.
    `with_expired` as in `resolve_universe`. Raises UsageError naming what the exchange does not have.
    """
    currencies = [name.upper() for name in options.currencies or config.currencies or ()]
    kinds = options.kinds or config.kinds or ()
    expired = known.get(expired_name(currencies))
    return resolve_universe(
        client,
        currencies,
        kinds,
        map(Stream.parse, stored),
        with_expired=with_expired,
        expired=None if expired is None else map(Stream.parse, expired.get("streams", ())),
        is_expired_old=expired is not None and abs(now_ms - expired["asked_ms"]) >= EXPIRED_VALID_MS,
    )

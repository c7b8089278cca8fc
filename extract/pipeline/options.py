"""Options of a run, and how they resolve to streams and times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from extract.deribit.client import DeribitClient
from extract.deribit.config import KINDS, DeribitConfig
from extract.deribit.jsonrpc import ExchangeRefusedError
from extract.deribit.streams import Stream
from extract.errors import UsageError
from extract.times import parse_time_ms


@dataclass(frozen=True)
class RunOptions:
    """What the user requested; None or empty for the configured value."""

    since: str | None = None
    until: str | None = None
    currencies: Sequence[str] = ()
    kinds: Sequence[str] = ()


def resolve_times(options: RunOptions, now_ms: int) -> tuple[int | None, int | None]:
    """(since, until) in ms. None means from the stored state, and until now. Raises UsageError."""
    since_ms = parse_time_ms(options.since, "--since", now_ms) if options.since else None
    until_ms = parse_time_ms(options.until, "--until", now_ms) if options.until else None
    if since_ms is not None and since_ms > now_ms:
        raise UsageError(f"--since {options.since} is in the future; give a time in the past.")
    if since_ms is not None and until_ms is not None and since_ms >= until_ms:
        raise UsageError(f"--since {options.since} is not before --until {options.until}; swap them.")
    # The future cannot be covered.
    return since_ms, until_ms if until_ms is not None and until_ms < now_ms else None


def resolve_streams(client: DeribitClient, config: DeribitConfig, options: RunOptions) -> list[Stream]:
    """The requested streams, by currency and kind. Raises UsageError naming what the exchange does not have."""
    kinds = list(dict.fromkeys(options.kinds or config.kinds or KINDS))
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"--kind {kind!r} does not exist; the exchange has {', '.join(KINDS)}.")
    requested = [name.upper() for name in options.currencies or config.currencies or ()]
    records = client.result(client.live, "get_currencies", type=list[dict[str, Any]])
    offered = [record["currency"] for record in records]
    for currency in requested:
        if currency not in offered and not _has_instruments(client, currency):
            raise UsageError(
                f"--currency {currency!r} does not exist; the exchange has {', '.join(sorted(offered))}."
            )
    return [Stream(currency, kind) for currency in dict.fromkeys(requested or offered) for kind in kinds]


def _has_instruments(client: DeribitClient, currency: str) -> bool:
    """Whether the history host has instruments of a currency that is no longer offered."""
    try:
        return any(True for _ in client.instruments(currency, expired=True))
    except ExchangeRefusedError:
        return False

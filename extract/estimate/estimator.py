"""What a backfill will take, reckoned from a few probes; knows no network. `probes` asks, `planner` puts it together."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from extract.deribit.instrument_names import has_expired
from extract.deribit.streams import Stream
from extract.paths import tape_dir

PAGE_FILL_RATIO = 0.85
"""Share of a page that answers fill: 0.88 on recorded options, whose trading is uneven, 0.95 where it is even."""
REQUESTS_AN_ABSENT_HEAD = 6
"""Three fruitless answers of each host, and a range counts as absent."""
DISK_BYTES_PER_TRADE = 30.0
"""28 measured on 73,548 recorded options, freshly loaded; taken where no trades are loaded yet."""
MIN_OVERLAP = 0.4
"""Share of trades whose instrument a later page shows, below which the numbers tell too little."""
_NEVER = datetime(9000, 1, 1, tzinfo=UTC)


class SampledTrade(NamedTuple):
    """What a probe keeps of a trade. `number` is that of its id, which counts a currency's trades of all kinds."""

    at_ms: int
    instrument_name: str
    trade_seq: int
    number: int = 0


Page = Sequence[SampledTrade]
"""Trades in the order of time, none left out between the first and the last."""


@dataclass(frozen=True)
class StreamPlan:
    """What one currency and kind will take. `how`: what the number of trades rests on; `bytes` over the wire."""

    stream: Stream
    trades: int
    requests: int
    bytes: int
    how: str


@dataclass(frozen=True)
class Plan:
    """What a run will take in all; `inputs` are the figures that it rests on, a sentence each.

    `partially_run`: whether a run has already done a part of it.
    """

    streams: list[StreamPlan]
    trades: int
    requests: int
    seconds: float
    wire_bytes: int
    disk_bytes: int
    planned_at: str
    inputs: list[str] = field(default_factory=list)
    partially_run: bool = False


class Count(NamedTuple):
    """How many trades, and whether that is no more than a guess from how dense they are at each probe."""

    trades: int
    is_rough: bool = False


def estimate_trades(pages: Sequence[Page], *, from_the_beginning: bool) -> Count:
    """How many trades there are from the first of `pages` to the end of the last.

    The numbers of an instrument that is seen twice tell how many of its trades lie between. What remains are trades
    of instruments that no later page shows: their share is taken from the trades just before and after each gap.
    Where few instruments live from one page to the next, their numbers tell nothing, and density has to do.
    """
    pages = [page for page in pages if page]
    seen = {mark for page in pages for mark in page}
    gaps = [
        (page, after, later)
        for page, after, later in zip(pages, pages[1:], _later(pages), strict=False)
        if after[0] not in set(page)
    ]
    between = _count_by_seq(pages, from_the_beginning) - len(seen)
    if not gaps or between <= 0:
        return Count(len(seen))
    shares = [_overlap_shares(*gap) for gap in gaps]
    if sum(before for before, _ in shares) < MIN_OVERLAP * len(shares):
        return Count(len(seen) + round(sum(_by_density(page, after) for page, after, _ in gaps)), True)
    return Count(len(seen) + round(between * 2 * len(shares) / sum(map(sum, shares))))


def _by_density(page: Page, after: Page) -> float:
    """Trades between two pages, as dense as the mean of both: by number of id, else by time."""
    before = page[-len(after) :]
    has_numbers = all(mark.number for mark in (*before, *after))
    ends = [[mark.number if has_numbers else mark.at_ms for mark in part] for part in (before, after)]
    density = sum(len(part) / max(1, max(part) - min(part)) for part in ends) / 2
    return max(0, min(ends[1]) - max(ends[0])) * density


def _later(pages: Sequence[Page]) -> list[set[str]]:
    """For each page but the last, the instruments of the pages after the next one."""
    found: list[set[str]] = [set()]
    for page in reversed(pages[2:]):
        found.append(found[-1] | {mark.instrument_name for mark in page})
    return found[::-1]


def _count_by_seq(pages: Sequence[Page], from_the_beginning: bool) -> int:
    """Trades from the first page on up to the last sight of each instrument."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for number, page in enumerate(pages):
        for _, name, seq, _ in page:
            if number == 0:
                first[name] = min(seq, first.get(name, seq))
            elif name not in first:
                # What never expires may have traded for years before, too seldom to be on the first page.
                begins = from_the_beginning or has_expired(name, _NEVER)
                first[name] = 1 if begins else seq
            last[name] = max(seq, last.get(name, seq))
    return sum(last[name] - first[name] + 1 for name in last)


def _overlap_shares(page: Page, after: Page, later: set[str]) -> tuple[float, float]:
    """Shares of trades whose instrument a later page shows: right before the gap, and right after it."""
    before = page[-len(after) :]
    names = {mark.instrument_name for mark in after} | later
    half = max(1, len(after) // 2)
    late = {mark.instrument_name for mark in after[half:]} | later
    return (
        sum(mark.instrument_name in names for mark in before) / len(before),
        sum(mark.instrument_name in late for mark in after[:half]) / half,
    )


def trades_since(page: Page, at_ms: int, until_ms: int) -> int:
    """Trades from `at_ms` to `until_ms`, by the newest page: counted where it reaches back so far."""
    if not page:
        return 0
    inside = sum(mark.at_ms >= at_ms for mark in page)
    if page[0].at_ms < at_ms:
        return inside
    return round(inside * (until_ms - at_ms) / max(1, until_ms - page[0].at_ms))


def count_missing_heads(page: Page) -> int:
    """Instruments whose trades do not begin with 1 on the first page of all: the run will ask for what is before."""
    first: dict[str, int] = {}
    for _, name, seq, _ in page:
        first[name] = min(seq, first.get(name, seq))
    return sum(seq > 1 for seq in first.values())


def pages_for(trades: int, page_size: int) -> int:
    """Requests that `trades` of one stretch of time take, the first of which learns how dense they are."""
    return 1 + math.ceil(max(0, trades - page_size) / (page_size * PAGE_FILL_RATIO))


# What was planned is kept until it was run


def save_plan(plan: Plan, key: str) -> None:
    """Writes the plan to `.tape/plan.json`, beside those of other questions."""
    kept = _kept()
    kept[key] = asdict(plan)
    _write(kept)


def load_plan(key: str) -> Plan | None:
    """The plan that was made for the same question and not run yet."""
    try:
        found = _kept()[key]
        streams = [StreamPlan(**{**each, "stream": Stream(*each["stream"])}) for each in found["streams"]]
        return Plan(**{**found, "streams": streams})
    except (KeyError, TypeError):  # none, or of another version
        return None


def delete_plan(key: str) -> None:
    """What was run to its end is no plan any more."""
    kept = _kept()
    if kept.pop(key, None) is not None:
        _write(kept)


def plan_key(since: str | None, until: str | None, currencies: Iterable[str], kinds: Iterable[str]) -> str:
    """What makes two questions the same."""
    return json.dumps([since, until, sorted({c.upper() for c in currencies}), sorted(set(kinds))])


def _kept() -> dict[str, Any]:
    try:
        found = json.loads((tape_dir() / "plan.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(kept: dict[str, Any]) -> None:
    path = tape_dir() / "plan.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=1))

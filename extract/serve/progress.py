"""Progress of the backfill: by stream, and of all streams together. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any


def stream_progress(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `backfill_progress`, with the rate of the last ten minutes and the seconds left at that rate.

    `gained` of the row: trades and covered ms that the newest load packages added in a number of seconds, None if none did.
    """
    item = {name: value for name, value in row.items() if name not in ("gained", "instruments")}
    gained = row.get("gained")
    seconds = float(gained["seconds"]) if gained else 0.0
    is_running = row["status"] == "running" and seconds > 0
    item["trades_per_second"] = round(gained["trades"] / seconds, 1) if gained and is_running else None
    item["seconds_left"] = None
    if gained and is_running and gained["covered_ms"] > 0:
        remaining_s = _seconds(row["started_from"], row["target"]) * (1 - row["percent"] / 100)
        item["seconds_left"] = round(remaining_s / (gained["covered_ms"] / 1000 / seconds))
    return item


def total_progress(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The summary of all streams: the least advanced one decides."""
    statuses = {item["status"] for item in items}
    status = next((each for each in ("error", "running", "paused") if each in statuses), "completed")
    lengths = [_seconds(item["started_from"], item["target"]) for item in items]
    covered = sum(length * item["percent"] / 100 for length, item in zip(lengths, items, strict=True))
    counts = {name: sum(item[name] for item in items) for name in ("trades", "missing", "absent")}
    expected = sum(counts.values())
    rates = [item["trades_per_second"] for item in items if item["trades_per_second"] is not None]
    left = [item["seconds_left"] for item in items if item["seconds_left"] is not None]
    return {
        "status": status if items else "paused",
        "percent": 100 * covered / sum(lengths) if sum(lengths) else 100.0 * bool(items),
        "started_from": min((item["started_from"] for item in items), default=None),
        "current": min((item["current"] for item in items), default=None),
        "target": max((item["target"] for item in items), default=None),
        "last_push_at": max((item["last_push_at"] for item in items if item["last_push_at"]), default=None),
        "last_load_at": max((item["last_load_at"] for item in items), default=None),
        **counts,
        "proven_share": 1 - counts["missing"] / expected if expected else 1.0,
        "trades_per_second": round(sum(rates), 1) if rates else None,
        "seconds_left": max(left) if left else None,
    }


def _seconds(first: str, last: str) -> float:
    start, end = (datetime.fromisoformat(text) for text in (first, last))
    return max(0.0, (end - start).total_seconds())

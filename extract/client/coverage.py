"""Proof of an answer: whether the requested time is loaded, and which trades of it are missing or absent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class Coverage:
    """What an answer is proven to be.

    `proven`: the whole requested time, up to `as_of`, is loaded, and nothing of it is missing except what the exchange
    itself does not have. `missing`: trade numbers (of series: rows) in the requested time that are neither loaded nor known
    to be absent; `absent`: those that the exchange does not have. `as_of`: end of the covered time, UTC; None if nothing is
    covered. Rows after it may be in the answer, but are not proven.
    """

    proven: bool
    missing: int
    absent: int
    as_of: datetime | None

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> Coverage:
        """The coverage of an answer of the HTTP API."""
        as_of = value["as_of"]
        at = None if as_of is None else datetime.fromisoformat(as_of).astimezone(UTC)
        return cls(value["proven"], value["missing"], value["absent"], at)


NOTHING_COVERED = Coverage(False, 0, 0, None)


def combine(parts: Sequence[Coverage]) -> Coverage:
    """The coverage of an answer that consists of others; its time ends where the earliest of theirs does."""
    ends = [part.as_of for part in parts if part.as_of is not None]
    if not parts or len(ends) < len(parts):
        return NOTHING_COVERED
    return Coverage(
        all(part.proven for part in parts),
        sum(part.missing for part in parts),
        sum(part.absent for part in parts),
        min(ends),
    )

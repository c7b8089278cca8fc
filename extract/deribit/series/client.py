"""The part of the exchange's client that the series need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class SeriesClient(Protocol):
    """`DeribitClient`, without its imports."""

    @property
    def live(self) -> Any:
        """The host that serves the series: the history host does not."""

    @property
    def history(self) -> Any:
        """The host that lists expired instruments."""

    @property
    def is_cancelled(self) -> bool:
        """Whether every further request fails."""

    def call(
        self, host: Any, method: str, params: Mapping[str, str | int], decode: Callable[[bytes], T]
    ) -> T:
        """`decode` of the answer's body, with retries."""

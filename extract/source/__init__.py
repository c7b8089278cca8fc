"""The dlt source `deribit`: public trades of the exchange, for any pipeline and destination; see README.md.

`tables` is the registry of the tables that it loads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from extract.source.source import deribit

__all__ = ["deribit"]


def __getattr__(name: str) -> Any:
    """Import dlt only where the source is used: commands that read `tables` start in half the time."""
    if name == "deribit":
        from extract.source.source import deribit

        return deribit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

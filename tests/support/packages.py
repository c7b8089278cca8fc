"""Generated load packages that restate each other's trades, and a loader that is killed between two statements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import yaml
from hypothesis import strategies as st

from extract.clickhouse.client import Database, Values
from extract.paths import ROOT
from tests.support.candle_truth import Trade

START_MS = 1_738_367_990_000  # 2025-01-31 23:59:50, so that a minute, a day and a month end within seconds
NAMES = (
    "BTC-PERPETUAL",
    "ETH_USDC-PERPETUAL",
    "BTC-28FEB25",
    "BTC-28FEB25-90000-C",
    "BTC-28FEB25-90000-P",
    "BTC_USDC",
    "BTC-FS-28FEB25_PERP",
)
TIMES_MS = st.one_of(st.integers(0, 30_000), st.sampled_from([400 * 86_400_000, -35 * 86_400_000, 3_600_000]))


@st.composite
def trades(draw: st.DrawFn) -> Trade:
    """A trade with one of a few keys, so that packages restate each other's trades."""
    name = draw(st.sampled_from(NAMES))
    is_option = name.endswith(("-C", "-P"))
    return {
        "instrument_name": name,
        "trade_seq": draw(st.integers(1, 4)),
        "trade_id": draw(st.sampled_from(["7", "ETH-8", "009", "x"])),
        "timestamp": START_MS + draw(TIMES_MS),
        "price": draw(st.integers(-(10**3), 10**7)) / draw(st.sampled_from([1, 2, 1000])),
        "amount": draw(st.sampled_from([0.1, 0.7000000000000001, 0.3999999999999999, 10.0, 12_345.678])),
        "direction": draw(st.sampled_from(["buy", "sell"])),
        "iv": draw(st.sampled_from([None, 0.0, 55.55])) if is_option else None,
        "liquidation": draw(st.sampled_from([None, None, "MT"])),
        "block_trade_id": draw(st.sampled_from([None, None, "BLOCK-1"])),
        "block_rfq_id": draw(st.sampled_from([None, None, 7])),
        "combo_id": draw(st.sampled_from([None, None, "BTC-FS-28FEB25_PERP"])),
        "index_price": draw(st.sampled_from([None, 94_738.7813, 1 / 3])),
        "kind": "option"
        if is_option
        else "future_combo"
        if "-FS-" in name
        else "future"
        if "-" in name
        else "spot",
        "currency": "BTC",
    }


PACKAGES = st.lists(
    st.lists(trades(), max_size=12, unique_by=lambda t: (t["instrument_name"], t["trade_seq"])),
    min_size=2,
    max_size=4,
)


_SETTINGS = yaml.safe_load((ROOT / "dbt_project" / "dbt_project.yml").read_text())
STEP_TABLES = [step["table"] for step in _SETTINGS["vars"]["refresh_steps"]]
"""The table of each statement of a refresh of one portion."""
STEPS = len(STEP_TABLES)


class KilledError(Exception):
    """The end of a process between two statements."""


def _end_process() -> None:
    raise KilledError


@dataclass(frozen=True)
class InterruptedDatabase(Database):
    """A database before whose statement number `last` something happens: the end of its client, or `interrupt`."""

    last: int = 0
    interrupt: Callable[[], object] = _end_process
    statements: list[str] = field(default_factory=list)

    def command(self, sql: str, parameters: Values = None, settings: Values = None) -> None:
        if len(self.statements) == self.last:
            self.interrupt()
        self.statements.append(sql)
        super().command(sql, parameters, settings)

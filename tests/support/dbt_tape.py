"""Trades of the sandbox's tape as raw rows: every kind of instrument, combos with their legs, blocks, liquidations."""

from __future__ import annotations

import json
from typing import Any

from extract.sandbox.instrument_names import parse
from extract.sandbox.tape import Tape, kind_of


def raw_trades(tape: Tape) -> list[dict[str, Any]]:
    """As the extractor writes them: with currency and kind, legs as text."""
    return [
        {
            **trade,
            "kind": kind_of(trade),
            "currency": parse(trade["instrument_name"]).currency,
            **({"legs": json.dumps(trade["legs"])} if "legs" in trade else {}),
        }
        for trade in tape.trades
    ]

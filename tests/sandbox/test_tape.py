"""Generated tapes have the features of real trades and are the same on every machine."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import accumulate, pairwise
from pathlib import Path

import pytest

from extract.errors import UsageError
from extract.sandbox.instrument_names import parse
from extract.sandbox.tape import DEFAULT_END_MS, Tape, id_parts, trade_order
from tests.support.recorded import RECORDED_TAPE, needs_recordings

DIGEST = "8d6a1bbec5c916076e196692bbd2a7617b3105796384780905a427a63d163a84"


def digest(tape: Tape) -> str:
    text = json.dumps([tape.trades, tape.instruments], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def by_instrument(tape: Tape) -> dict[str, list[dict]]:
    trades = defaultdict(list)
    for trade in sorted(tape.trades, key=lambda each: each["trade_seq"]):
        trades[trade["instrument_name"]].append(trade)
    return trades


def test_seed_determines_every_byte(small_tape):
    """The tape of seed 1 has a fixed digest, so that no change of it goes unnoticed."""
    assert digest(small_tape) == DIGEST
    assert digest(Tape.generate(seed=2, trades=3000, days=3)) != DIGEST


@pytest.mark.parametrize("hash_seed", ["0", "4711"])
def test_tape_is_independent_of_hash_order(hash_seed):
    """A process with another hash seed generates the same tape."""
    program = (
        "from extract.sandbox.tape import Tape; from tests.sandbox.test_tape import digest;"
        "print(digest(Tape.generate(seed=1, trades=3000, days=3)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == DIGEST


def test_tape_has_requested_length_and_time_span(small_tape):
    """Exactly `trades` trades, sorted by (timestamp, id), within the days before the end."""
    assert len(small_tape.trades) == 3000
    assert small_tape.trades == sorted(small_tape.trades, key=trade_order)
    assert small_tape.trades[0]["timestamp"] >= DEFAULT_END_MS - 3 * 86_400_000
    assert small_tape.trades[-1]["timestamp"] < DEFAULT_END_MS


@pytest.mark.parametrize("count", [1, 2, 3, 7, 401])
def test_every_length_is_exact(count):
    """Combos and bursts at the end add no trades beyond it."""
    assert len(Tape.generate(seed=5, trades=count, days=0.5).trades) == count


def test_seqs_have_no_gaps_and_follow_ids_and_time(small_tape):
    """The proof of completeness that the extractor builds on."""
    for name, trades in by_instrument(small_tape).items():
        assert [trade["trade_seq"] for trade in trades] == list(range(1, len(trades) + 1)), name
        numbers = [id_parts(trade["trade_id"])[1] for trade in trades]
        assert numbers == sorted(set(numbers))
        assert all(a["timestamp"] <= b["timestamp"] for a, b in pairwise(trades))


def test_ids_are_unique_per_currency_and_nearly_in_time_order(small_tape):
    """Across instruments, ids are out of time order by up to 18 ms."""
    groups = defaultdict(list)
    for trade in small_tape.trades:
        prefix, number = id_parts(trade["trade_id"])
        groups[prefix].append((number, trade["timestamp"], parse(trade["instrument_name"])))
    assert {"", "ETH-", "USDC-", "ETH_USDC-"} <= set(groups)
    latest = 0
    for prefix, rows in groups.items():
        rows.sort(key=lambda row: row[0])
        assert len({number for number, _, _ in rows}) == len(rows)
        assert prefix.startswith("ETH_USDC") or len({parts.currency for _, _, parts in rows}) == 1
        stamps = [stamp for _, stamp, _ in rows]
        latest = max(latest, *(top - ms for top, ms in zip(accumulate(stamps, max), stamps, strict=True)))
    assert 10 <= latest <= 18


def test_every_kind_of_instrument_trades(small_tape):
    """Inverse and linear, spot, dated, options, combos, decimal strikes, and names that no pattern matches."""
    names = {trade["instrument_name"] for trade in small_tape.trades}
    kinds = {entry["instrument_name"]: entry["kind"] for entry in small_tape.instruments}
    assert {kinds[name] for name in names} == {"future", "option", "spot", "future_combo", "option_combo"}
    assert {parse(name).currency for name in names} >= {"BTC", "ETH", "USDC", "EURR"}
    assert any(
        "d" in name.split("-")[2] for name in names if name.startswith("XRP_USDC-") and name[-1] in "CP"
    )
    assert any(parse(name).kind is None for name in names)
    assert {"BTC-PERPETUAL", "SOL_USDC-PERPETUAL", "BTC_USDC", "BTC_USDT"} <= names


def test_trades_are_within_the_lifetime_of_their_instrument(small_tape):
    """Expiries are at 08:00 UTC, and some are within the time of the tape."""
    expired = 0
    traded = by_instrument(small_tape)
    for entry in small_tape.instruments:
        trades = traded.get(entry["instrument_name"], [])
        expiry_ms = entry.get("expiration_timestamp")
        assert all(trade["timestamp"] >= entry["creation_timestamp"] for trade in trades)
        if expiry_ms is not None:
            assert expiry_ms % 86_400_000 == 8 * 3_600_000 or "PERPETUAL" in entry["instrument_name"]
            assert all(trade["timestamp"] < expiry_ms for trade in trades)
            expired += bool(trades) and expiry_ms < DEFAULT_END_MS
    assert expired > 20


def test_combo_legs_are_trades_on_the_tape(small_tape):
    """Each record in `legs` is also a trade of the tape, at most a millisecond later."""
    on_tape = {trade["trade_id"]: trade for trade in small_tape.trades}
    combos = [trade for trade in small_tape.trades if "legs" in trade]
    later = Counter()
    for combo in combos:
        assert len(combo["legs"]) == 2
        for leg in combo["legs"]:
            assert on_tape[leg["trade_id"]] == leg
            assert leg["combo_id"] == combo["instrument_name"]
            assert leg["combo_trade_id"] == combo["trade_id"]
            later[leg["timestamp"] - combo["timestamp"]] += 1
    legs = sum("combo_id" in trade for trade in small_tape.trades)
    assert legs == 2 * len(combos)
    assert set(later) == {0, 1}


def test_tape_has_block_trades_liquidations_and_missing_fields(small_tape):
    """It also has iv 0, early trades without contracts or mark price, and milliseconds with many trades."""
    trades = small_tape.trades
    assert {trade["liquidation"] for trade in trades if "liquidation" in trade} == {"M", "T", "MT"}
    blocks = Counter(trade["block_trade_id"] for trade in trades if "block_trade_id" in trade)
    counts = {
        trade["block_trade_id"]: trade["block_trade_leg_count"]
        for trade in trades
        if "block_trade_id" in trade
    }
    assert blocks == counts
    assert any("block_rfq_id" in trade for trade in trades)
    assert any(trade.get("iv") == 0 for trade in trades)
    assert any("contracts" not in trade for trade in trades[:200])
    assert any(trade["mark_price"] is None for trade in trades[:200])
    crowds = Counter((trade["instrument_name"], trade["timestamp"]) for trade in trades)
    assert sorted(crowds.values())[-2:] == [36, 40]


def test_amounts_and_prices_are_multiples_of_lot_and_tick(small_tape):
    """Inverse futures are in USD by whole contracts, all else in coin; prices are above 0."""
    entries = {entry["instrument_name"]: entry for entry in small_tape.instruments}
    for trade in small_tape.trades:
        entry = entries[trade["instrument_name"]]
        assert trade["amount"] > 0
        lots = trade["amount"] / entry["min_trade_amount"]
        assert lots == pytest.approx(round(lots))
        if "combo" not in entry["kind"]:
            assert trade["price"] > 0
            ticks = trade["price"] / entry["tick_size"]
            assert ticks == pytest.approx(round(ticks), abs=1e-6)
    perpetual = by_instrument(small_tape)["BTC-PERPETUAL"]
    assert all(trade["amount"] % 10 == 0 and trade["price"] > 50_000 for trade in perpetual)


def test_option_iv_has_a_smile(small_tape):
    """At one expiry, strikes far from the money have more implied volatility than those near it."""
    wings, money = [], []
    for trade in small_tape.trades:
        if trade["instrument_name"].startswith("BTC-30JAN26-") and trade["iv"]:
            far = abs(parse(trade["instrument_name"]).strike / trade["index_price"] - 1)
            (wings if far > 0.12 else money).append(trade["iv"])
    assert len(wings) > 5
    assert sum(wings) / len(wings) > sum(money) / len(money) + 1


def test_burst_size_can_exceed_a_page():
    """`burst` trades of one instrument in one millisecond."""
    crowds = Counter(
        (trade["instrument_name"], trade["timestamp"])
        for trade in Tape.generate(trades=16_000, days=1, burst=1500).trades
    )
    assert max(crowds.values()) == 1500


@pytest.mark.parametrize("zipped", [False, True])
def test_tape_is_loaded_from_file(tmp_path: Path, small_tape, zipped):
    """NDJSON, gzipped or not, returns the same trades; kinds are derived from names."""
    text = "\n".join(json.dumps(trade) for trade in reversed(small_tape.trades)).encode()
    path = tmp_path / "tape.ndjson"
    path.write_bytes(gzip.compress(text) if zipped else text)
    loaded = Tape.load(path)
    assert loaded.trades == small_tape.trades
    kinds = {entry["instrument_name"]: entry["kind"] for entry in small_tape.instruments}
    assert all(kinds[entry["instrument_name"]] == entry["kind"] for entry in loaded.instruments)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"{oops\n", "Line 1 of the tape"),
        (b'{"price": 1}\n', "it lacks instrument_name, trade_seq"),
        (b"\n[1]\n", "Line 2 of the tape"),
        (gzip.compress(json.dumps({"x": "y" * 1000}).encode())[:-12], "truncated or damaged"),
    ],
    ids=["missing", "no-json", "no-trade", "no-object", "cut"],
)
def test_invalid_tape_file_is_reported(tmp_path: Path, content, message):
    """The error names the line and the reason."""
    path = tmp_path / "bad.ndjson"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        Tape.load(path)


@needs_recordings
def test_recorded_tape_is_loaded_completely():
    """73,548 trades of 634 options on BTC and ETH, all of whose names are parsed."""
    tape = Tape.load(RECORDED_TAPE)
    assert len(tape.trades) == 73_548
    assert len(tape.instruments) == 634
    assert {entry["kind"] for entry in tape.instruments} == {"option"}
    assert all(entry["expiration_timestamp"] % 86_400_000 == 8 * 3_600_000 for entry in tape.instruments)
    last = tape.trades[-1]["timestamp"]
    assert any(entry["expiration_timestamp"] < last for entry in tape.instruments)

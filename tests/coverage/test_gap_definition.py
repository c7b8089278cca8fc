"""Which trades count as missing, on hand-made raw tables."""

from __future__ import annotations

import json

import pytest

from extract.clickhouse.client import shared_database
from extract.clickhouse.settings import ClickHouseSettings
from extract.coverage.gaps import Scope, Unproven, find_contradictions, find_gaps
from extract.deribit.schema import MAX_SEQ
from extract.deribit.streams import Stream
from extract.errors import CannotTellError, UsageError
from extract.sweep.ledger import SeqRange
from tests.support.commands import tape_here
from tests.support.raw_tables import EPOCH, NAME, Raw, at


def test_consecutive_seqs_have_no_gap(raw: Raw) -> None:
    raw.covered(EPOCH, 10)
    raw.trades({1: 1, 2: 2, 3: 3})
    assert raw.gaps() == []


def test_holes_are_ranges_with_both_ends_included(raw: Raw) -> None:
    """Head and inner gaps of each instrument, in order."""
    raw.covered(EPOCH, 10)
    raw.trades({3: 1, 5: 2, 6: 2.5, 9: 3})
    raw.trades({1: 1, 3: 2}, name="BTC-PERPETUAL")
    assert [(g.range.instrument_name, g.range.first, g.range.last, g.where) for g in raw.all_gaps()] == [
        (NAME, 1, 2, "head"),
        (NAME, 4, 4, "inner"),
        (NAME, 7, 8, "inner"),
        ("BTC-PERPETUAL", 2, 2, "inner"),
    ]


def test_gap_has_the_documented_json_shape(raw: Raw) -> None:
    """Names and types of `tape gaps --json`."""
    raw.covered(EPOCH, 10)
    raw.trades({3: 1})
    [gap] = raw.all_gaps()
    assert gap.stream == Stream("BTC", "future")
    assert json.loads(json.dumps(gap.to_json())) == {
        "instrument_name": NAME,
        "first_missing_seq": 1,
        "last_missing_seq": 2,
        "missing": 2,
        "where": "head",
        "known_absent": False,
    }


def test_duplicate_and_restated_rows_count_once(raw: Raw) -> None:
    raw.covered(EPOCH, 10)
    raw.trades({1: 1, 2: 2, 4: 4})
    raw.trades({2: 2.5, 4: 4})
    assert raw.gaps() == [(3, 3, "inner")]


def test_hole_between_two_covered_spans_is_not_a_gap(raw: Raw) -> None:
    """Trades outside of covered time are not missing; within each span they are."""
    raw.covered(EPOCH, 10)
    raw.covered(20, 30)
    raw.trades({1: 1, 3: 9, 7: 21, 9: 29})
    assert raw.gaps() == [(2, 2, "inner"), (8, 8, "inner")]


def test_adjacent_and_overlapping_spans_are_merged(raw: Raw) -> None:
    """Grown spans are new rows; spans one millisecond apart are adjacent."""
    raw.covered(EPOCH, 5)
    raw.covered(EPOCH, 10)
    raw.covered(at(10).replace(microsecond=1000), 20)
    raw.covered(15, 30)
    raw.trades({1: 1, 3: 12, 5: 25})
    assert raw.gaps() == [(2, 2, "inner"), (4, 4, "inner")]


def test_span_is_not_shortened_by_spans_inside_it(raw: Raw) -> None:
    raw.covered(EPOCH, 30)
    raw.covered(5, 6)
    raw.covered(20, 25)
    raw.trades({1: 1, 3: 29})
    assert raw.gaps() == [(2, 2, "inner")]


def test_coverage_of_another_stream_is_ignored(raw: Raw) -> None:
    raw.covered(EPOCH, 30, kind="option")
    raw.covered(EPOCH, 30, currency="ETH")
    raw.covered(-30, 0)
    raw.trades({2: 1, 4: 2})
    assert raw.gaps() == []


def test_hole_after_covered_time_is_not_a_gap(raw: Raw) -> None:
    """The newest minute is loaded before it is covered."""
    raw.covered(EPOCH, 10)
    raw.trades({1: 1, 2: 9, 4: 11})
    assert raw.gaps() == []


YEAR = 525_600


@pytest.mark.parametrize("odd", [-56 * YEAR, -YEAR, YEAR])
def test_odd_time_of_a_trade_hides_no_gap(raw: Raw, odd: float) -> None:
    """The neighbours of these holes are outside of covered time, the trades around them are not."""
    raw.covered(EPOCH, 10)
    raw.trades({1: 1, 2: 2, 4: odd, 6: 6, 7: 7})
    raw.trades({1: odd, 3: odd + 1, 5: 5}, name="odd head")
    raw.trades({1: 1, 3: odd, 4: odd, 6: odd, 9: 9}, name="odd run")
    assert raw.gaps() == [
        (3, 3, "inner"),
        (5, 5, "inner"),
        (2, 2, "inner"),
        (4, 4, "inner"),
        (2, 2, "inner"),
        (5, 5, "inner"),
        (7, 8, "inner"),
    ]


@pytest.mark.parametrize("odd", [1, 25, 45])
def test_odd_time_in_another_span_hides_no_gap(raw: Raw, odd: float) -> None:
    """Whether the span is before, after, or of no other trade."""
    for start in (0, 20, 40):
        raw.covered(start, start + 9)
    raw.trades({11: 2, 12: 3, 20: 21, 22: odd, 24: 27, 30: 29})
    assert {(21, 21, "inner"), (23, 23, "inner"), (25, 29, "inner")} <= set(raw.gaps())


@pytest.mark.parametrize("odd", [-56 * YEAR, -YEAR, YEAR, 60 * YEAR])
def test_odd_time_of_the_first_or_last_trade_hides_no_gap(raw: Raw, odd: float) -> None:
    """No trade beyond it shows which ones are missing."""
    raw.covered(0, 10)
    raw.trades({4: 1, 5: 2, 7: odd}, name="last")
    raw.trades({4: 1, 6: odd, 7: odd, 9: odd}, name="last run")
    raw.trades({4: odd, 6: 2, 7: 3}, name="first")
    assert raw.gaps() == [(5, 5, "inner"), (6, 6, "inner"), (5, 5, "inner"), (8, 8, "inner")]


@pytest.mark.parametrize("odd", [-56 * YEAR, 60 * YEAR])
def test_odd_times_of_all_trades_hide_no_gap(raw: Raw, odd: float) -> None:
    """The head is missing only if the covered time includes the instrument's first trade."""
    raw.covered(EPOCH, 10)
    raw.covered(0, 10, kind="option")
    raw.trades({2: odd, 4: odd})
    raw.trades({2: odd, 4: odd}, name="option", kind="option")
    raw.trades({2: odd, 4: odd}, name="spot", kind="spot")
    assert [(gap.range.first, gap.range.last, gap.stream.kind) for gap in raw.all_gaps()] == [
        (1, 1, "future"),
        (3, 3, "future"),
        (3, 3, "option"),
    ]


def test_odd_time_beside_another_span_hides_no_gap(raw: Raw) -> None:
    """A trade of the newest minute is loaded before it is covered, an hour and more after a span none is."""
    raw.covered(0, 10)
    raw.covered(200, 300)
    raw.trades({1: 1, 2: 5, 4: 100}, name="between")
    raw.trades({1: 1, 2: 5, 4: 12}, name="newest")
    raw.trades({5: 100, 7: 201, 8: 300}, name="first")
    assert raw.gaps() == [(3, 3, "inner"), (6, 6, "inner")]


def test_odd_time_after_trades_of_the_newest_minute_is_not_a_gap(raw: Raw) -> None:
    """What is missing between the last covered trade and them is requested by the next run."""
    raw.covered(EPOCH, 10)
    raw.trades({1: 1, 3: 60 * YEAR, 5: 10.5})
    raw.trades({1: 1, 3: 10.5, 5: 60 * YEAR}, name="later")
    assert raw.gaps() == []


def test_number_of_a_trade_that_could_not_be_fetched_is_a_gap(raw: Raw) -> None:
    """Also if no trade of its instrument is loaded."""
    raw.make("rejected_trades")
    raw.covered(0, 10)
    record = json.dumps({"instrument_name": NAME, "trade_seq": 3})
    raw.insert("rejected_trades", reason="cannot be requested by number", raw=record)
    assert raw.gaps() == [(3, 3, "tail")]


def test_head_before_covered_time_is_not_a_gap(raw: Raw) -> None:
    """The instrument is older than the span, or its age is unknown."""
    raw.make("instruments")
    raw.insert("instruments", instrument_name=NAME, creation_timestamp=at(-5))
    raw.insert("instruments", instrument_name="BTC-PERPETUAL", creation_timestamp=None)
    raw.covered(0, 10)
    for name in (NAME, "BTC-PERPETUAL", "BTC-28MAR25"):
        raw.trades({5: 1, 7: 2}, name=name)
    assert raw.gaps() == [(6, 6, "inner")] * 3


def test_head_of_instrument_created_in_the_span_is_a_gap(raw: Raw) -> None:
    raw.make("instruments")
    raw.insert("instruments", instrument_name=NAME, creation_timestamp=at(0))
    raw.covered(0, 10)
    raw.trades({5: 1})
    assert raw.gaps() == [(1, 4, "head")]


def test_head_before_a_trade_in_a_later_span_is_not_a_gap(raw: Raw) -> None:
    """Its trades may have occurred between the spans."""
    raw.make("instruments")
    raw.insert("instruments", instrument_name=NAME, creation_timestamp=at(5))
    raw.covered(EPOCH, 10)
    raw.covered(20, 30)
    raw.trades({5: 21})
    assert raw.gaps() == []


def test_known_absent_ranges_are_split_off(raw: Raw) -> None:
    """However they were recorded: in pieces, twice, overlapping, or wider than the gap."""
    raw.make("absent_trades")
    raw.covered(EPOCH, 10)
    raw.trades({11: 1, 15: 2, 20: 3})
    for first, last in ((3, 4), (4, 6), (4, 5), (7, 7), (12, 30)):
        raw.insert("absent_trades", instrument_name=NAME, first_seq=first, last_seq=last)
    assert [(g.range.first, g.range.last, g.where, g.known_absent) for g in raw.all_gaps()] == [
        (1, 2, "head", False),
        (3, 7, "head", True),
        (8, 10, "head", False),
        (12, 14, "inner", True),
        (16, 19, "inner", True),
    ]


def test_loaded_trade_is_not_a_gap_though_recorded_as_absent(raw: Raw) -> None:
    raw.make("absent_trades")
    raw.covered(EPOCH, 10)
    raw.trades({1: 1, 2: 2, 3: 3})
    raw.insert("absent_trades", instrument_name=NAME, first_seq=1, last_seq=2)
    assert raw.gaps() == []


def test_trades_dropped_by_retention_are_not_gaps(raw: Raw) -> None:
    """A hole next to them has no time, so it cannot be attributed to covered time."""
    raw.make("dropped_trades")
    raw.covered(EPOCH, 10)
    raw.trades({9: 5, 11: 6})
    raw.insert("dropped_trades", instrument_name=NAME, first_seq=3, last_seq=5)
    raw.insert("dropped_trades", instrument_name=NAME, first_seq=7, last_seq=8)
    assert raw.gaps() == [(10, 10, "inner")]


def test_dropped_ranges_of_any_length_are_subtracted(raw: Raw) -> None:
    """Billions of dropped trades cost as much as one; ranges may overlap each other and loaded trades."""
    raw.make("dropped_trades")
    raw.make("instrument_tails")
    raw.covered(EPOCH, 10)
    end = 5_000_000_000
    raw.trades({2: 1, end + 1: 2, end + 3: 3})
    raw.insert("instrument_tails", instrument_name=NAME, last_seq=end + 9)
    raw.insert("instrument_tails", instrument_name="all dropped", last_seq=9)
    for name, first, last in (
        (NAME, 3, 4_000_000_000),
        (NAME, 2, end),
        (NAME, end + 5, end + 6),
        ("all dropped", 1, 7),
    ):
        raw.insert("dropped_trades", instrument_name=name, first_seq=first, last_seq=last)
    assert [(g.range.instrument_name, g.range.first, g.range.last, g.where) for g in raw.all_gaps()] == [
        (NAME, 1, 1, "head"),
        (NAME, end + 2, end + 2, "inner"),
        (NAME, end + 7, end + 9, "tail"),
        ("all dropped", 8, 9, "tail"),
    ]


def test_rejected_trade_is_a_gap_marked_as_rejected(raw: Raw) -> None:
    """It is not loaded; the exchange has it, but another request would return the same record."""
    raw.make("rejected_trades")
    raw.covered(EPOCH, 10)
    raw.trades({1: 1, 5: 2})
    record = json.dumps({"instrument_name": NAME, "trade_seq": 3, "price": {}})
    for text in (record, "[]", "no json"):
        raw.insert("rejected_trades", reason="price", raw=text)
    assert [(g.range.first, g.range.last, g.known_absent, g.rejected) for g in raw.all_gaps()] == [
        (2, 2, False, False),
        (3, 3, False, True),
        (4, 4, False, False),
    ]


@pytest.mark.parametrize("value", ["NaN", '"\\ud800"', "1e999", "[" * 5_000 + "]" * 5_000])
def test_rejected_trade_that_the_database_cannot_parse_is_a_gap(
    raw: Raw, clickhouse_env: ClickHouseSettings, value: str
) -> None:
    """By the number and the name in its text; one that holds them twice, or no number, counts as without a number."""
    raw.make("rejected_trades")
    raw.covered(EPOCH, 10)
    raw.trades({1: 1})
    record = json.dumps({"instrument_name": NAME, "trade_seq": 2})[:-1] + f', "price": {value}}}'
    raw.insert("rejected_trades", reason="price", raw=record)
    assert [(g.range, g.where, g.rejected) for g in raw.all_gaps()] == [(SeqRange(NAME, 2, 2), "tail", True)]
    assert "have no trade_seq" not in tape_here("gaps").err
    for text in (
        record.replace("2, ", f'2, "legs": [{{"instrument_name": "{NAME}"}}], '),
        record.replace("2, ", f"{10**30}, "),
        record.replace("2, ", "2.5, "),
        f'{{"instrument_name": "{NAME}", "trade_seq": {value}}}',
    ):
        raw.insert("rejected_trades", reason="price", raw=text)
    listed = f'{{"instrument_name": "{NAME}", "strike": {value}}}'
    raw.insert("rejected_trades", reason="not an instrument: strike", raw=listed)
    assert "4 records of BTC future cannot be read and have no trade_seq" in tape_here("gaps").err


def test_rejected_last_trade_is_a_missing_tail(raw: Raw) -> None:
    """No later trade shows that it is missing, also if it is the only one of its instrument."""
    raw.make("rejected_trades")
    raw.covered(EPOCH, 10)
    raw.trades({1: 1, 2: 2})
    for name, seq in ((NAME, 2), (NAME, 3), (NAME, 3), ("only", 1)):
        raw.insert(
            "rejected_trades", reason="price", raw=json.dumps({"instrument_name": name, "trade_seq": seq})
        )
    assert [(g.range, g.where, g.rejected, g.known_absent) for g in raw.all_gaps()] == [
        (SeqRange(NAME, 3, 3), "tail", True, False),
        (SeqRange("only", 1, 1), "tail", True, False),
    ]


def test_missing_tail_is_a_gap_if_the_last_seq_is_known(raw: Raw) -> None:
    """An instrument without loaded trades has a missing tail, too; one that never traded has no gap."""
    raw.make("instrument_tails")
    raw.covered(EPOCH, 10)
    raw.trades({1: 1, 2: 2})
    raw.trades({1: 1, 2: 2}, name="whole")
    for name, last_seq in ((NAME, 5), ("whole", 2), ("never seen", 7), ("never traded", 0)):
        raw.insert("instrument_tails", instrument_name=name, last_seq=last_seq)
    assert [(g.range.instrument_name, g.range.first, g.range.last, g.where) for g in raw.all_gaps()] == [
        (NAME, 3, 5, "tail"),
        ("never seen", 1, 7, "tail"),
    ]


def test_scope_selects_streams(raw: Raw) -> None:
    for currency in ("BTC", "ETH"):
        for kind in ("future", "option"):
            raw.covered(EPOCH, 10, currency=currency, kind=kind)
            raw.trades({2: 1}, name=f"{currency} {kind}", currency=currency, kind=kind)

    def names(**scope: list[str]) -> list[str]:
        return [gap.range.instrument_name for gap in find_gaps(raw.database, Scope.of(**scope))]

    assert names() == ["BTC future", "BTC option", "ETH future", "ETH option"]
    assert names(currencies=["eth"]) == ["ETH future", "ETH option"]
    assert names(kinds=["option"], currencies=["BTC"]) == ["BTC option"]


def test_gaps_cannot_be_detected_before_the_first_run(clean_clickhouse: ClickHouseSettings) -> None:
    with pytest.raises(CannotTellError, match="run `dlt pipeline run`"):
        find_gaps(shared_database(clean_clickhouse))


def test_gaps_of_uncovered_streams_cannot_be_detected(raw: Raw) -> None:
    """No time is covered at all, or none of a currency or kind; the sentence names the command to run."""
    with pytest.raises(CannotTellError, match=r"No time is covered for any stream.*`dlt pipeline run`"):
        find_gaps(raw.database)
    raw.covered(EPOCH, 10)
    with pytest.raises(
        CannotTellError, match=r"covered for ETH.*`dlt pipeline run --currency BTC --currency ETH`"
    ):
        find_gaps(raw.database, Scope.of(["BTC", "ETH"]))
    with pytest.raises(CannotTellError, match="covered for spot"):
        find_gaps(raw.database, Scope.of([], ["spot"]))
    assert CannotTellError.exit_code == 2


def test_unknown_kind_is_a_usage_error(raw: Raw) -> None:
    """Unless it is loaded: the exchange may add kinds."""
    raw.covered(EPOCH, 10)
    with pytest.raises(UsageError, match="--kind 'swap'"):
        find_gaps(raw.database, Scope.of([], ["swap"]))
    raw.covered(EPOCH, 10, kind="swap")
    raw.trades({1: 1, 3: 2}, kind="swap")
    [gap] = find_gaps(raw.database, Scope.of([], ["swap"]))
    assert gap.range.first == gap.range.last == 2


def test_rejected_trade_with_the_number_of_another_is_listed_until_it_is_settled(
    raw: Raw, clickhouse_env: ClickHouseSettings
) -> None:
    """`tape gaps` exits with 1 although no number is missing; deleting the record settles it."""
    raw.covered(EPOCH, 10)
    raw.trades({1: 1, 2: 2, 3: 3})
    raw.make("rejected_trades")
    for seq, trade_id in ((2, "77"), (2, "77"), (3, "78")):
        record = {"instrument_name": NAME, "trade_seq": seq, "trade_id": trade_id}
        raw.insert("rejected_trades", reason="another trade has this trade_seq", raw=json.dumps(record))
    raw.insert(
        "rejected_trades", reason="no price", raw=json.dumps({"instrument_name": NAME, "trade_seq": 1})
    )
    [contradiction] = find_contradictions(raw.database)
    assert (contradiction.trades, contradiction.range) == (2, SeqRange(NAME, 2, 3))
    assert find_contradictions(raw.database, Scope.of(["ETH"])) == []
    done = tape_here("gaps")
    assert (done.code, done.out) == (1, "")
    assert f"2 trades of {NAME} are rejected, because other trades have their numbers, 2 to 3" in done.err
    raw.client.command(
        "delete from deribit_raw.rejected_trades where reason = 'another trade has this trade_seq'"
    )
    assert tape_here("gaps").code == 0


def test_rejected_trade_without_a_number_is_listed_until_it_is_deleted(
    raw: Raw, clickhouse_env: ClickHouseSettings
) -> None:
    """Any trade may be the missing one; an odd record of another list is none."""
    raw.covered(EPOCH, 10)
    raw.trades({1: 1, 2: 2})
    raw.make("rejected_trades")
    named = {"instrument_name": NAME}
    for text in (named | {"trade_id": "7"}, {"trade_seq": 5}, named | {"trade_seq": 2.7}, named, None):
        raw.insert("rejected_trades", reason="odd", raw=json.dumps(text))
    raw.insert("rejected_trades", reason="set aside", raw='{"unproven_from_ms": 1}')
    for reason in ("not a currency: a name of one word was expected", "not an instrument: it has no kind"):
        raw.insert("rejected_trades", reason=reason, raw=json.dumps(named))
    done = tape_here("gaps")
    assert done.code == 1
    assert "5 records of BTC future cannot be read and have no trade_seq" in done.err
    raw.client.command("truncate table deribit_raw.rejected_trades")
    assert tape_here("gaps").code == 0


def test_detached_part_leaves_nothing_proven(raw: Raw, clickhouse_env: ClickHouseSettings) -> None:
    """As ClickHouse does with a part that it cannot read: no later trade shows that those of the part are missing."""
    raw.covered(EPOCH, 10)
    raw.trades({1: 1, 2: 2})
    raw.trades({1: 1, 2: 2}, name="lost")
    raw.client.command("optimize table deribit_raw.trades final")
    assert tape_here("gaps").code == 0
    raw.client.command("alter table deribit_raw.trades detach partition 202501")
    done = tape_here("gaps")
    assert (done.code, done.out) == (1, "")
    assert "ClickHouse has detached parts of deribit_raw.trades" in done.err
    raw.client.command("alter table deribit_raw.trades attach partition 202501")
    assert tape_here("gaps").code == 0


@pytest.mark.parametrize("seq", [2**63 - 1, MAX_SEQ + 1])
def test_seq_out_of_range_is_no_trade(raw: Raw, seq: int) -> None:
    """A version that accepted it may have loaded it: nothing is missing before it, and adding 1 does not overflow."""
    raw.covered(EPOCH, 10)
    raw.trades({1: 1, 3: 2, seq: 3})
    raw.make("absent_trades")
    raw.make("rejected_trades")
    raw.insert("absent_trades", instrument_name=NAME, first_seq=4, last_seq=seq - 1)
    raw.insert(
        "rejected_trades",
        reason="too large",
        raw=json.dumps({"instrument_name": NAME, "trade_seq": seq}),
    )
    assert raw.gaps() == [(2, 2, "inner")]


def test_time_that_is_not_proven_names_the_command_that_tries_again() -> None:
    text = str(
        Unproven(Stream("BTC", "option"), 1_700_000_000_000, 1_700_000_060_000, "The exchange failed.")
    )
    assert text.endswith("The exchange failed. `dlt pipeline run --since 2023-11-14T22:13:20Z` tries again.")

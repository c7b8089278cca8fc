"""What counts as missing: decided on raw tables made by hand, by the statement that users get."""

from __future__ import annotations

import json

import pytest

from extract.clickhouse.client import shared_database
from extract.clickhouse.settings import ClickHouseSettings
from extract.coverage.gaps import Scope, find_gaps
from extract.deribit.streams import Stream
from extract.errors import CannotTellError, UsageError
from tests.support.raw_tables import EPOCH, NAME, Raw, at


def test_whole_is_without_gaps(raw: Raw) -> None:
    raw.covered(EPOCH, 10)
    raw.trades({1: 1, 2: 2, 3: 3})
    assert raw.gaps() == []


def test_holes_are_ranges_with_both_ends_included(raw: Raw) -> None:
    """Head and inner ones, of each instrument by itself, in order."""
    raw.covered(EPOCH, 10)
    raw.trades({3: 1, 5: 2, 6: 2.5, 9: 3})
    raw.trades({1: 1, 3: 2}, name="BTC-PERPETUAL")
    assert [(g.range.instrument_name, g.range.first, g.range.last, g.where) for g in raw.all_gaps()] == [
        (NAME, 1, 2, "head"),
        (NAME, 4, 4, "inner"),
        (NAME, 7, 8, "inner"),
        ("BTC-PERPETUAL", 2, 2, "inner"),
    ]


def test_a_gap_reads_as_promised(raw: Raw) -> None:
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


def test_rows_that_came_twice_or_were_restated_count_once(raw: Raw) -> None:
    raw.covered(EPOCH, 10)
    raw.trades({1: 1, 2: 2, 4: 4})
    raw.trades({2: 2.5, 4: 4})
    assert raw.gaps() == [(3, 3, "inner")]


def test_between_two_covered_spans_nothing_is_missing(raw: Raw) -> None:
    """What was traded in time that nobody asked for is not missing; within each span it is."""
    raw.covered(EPOCH, 10)
    raw.covered(20, 30)
    raw.trades({1: 1, 3: 9, 7: 21, 9: 29})
    assert raw.gaps() == [(2, 2, "inner"), (8, 8, "inner")]


def test_spans_that_touch_or_overlap_are_one(raw: Raw) -> None:
    """Grown spans come as new rows; one millisecond apart is not apart."""
    raw.covered(EPOCH, 5)
    raw.covered(EPOCH, 10)
    raw.covered(at(10).replace(microsecond=1000), 20)
    raw.covered(15, 30)
    raw.trades({1: 1, 3: 12, 5: 25})
    assert raw.gaps() == [(2, 2, "inner"), (4, 4, "inner")]


def test_a_long_span_holds_what_a_short_one_within_it_does_not(raw: Raw) -> None:
    raw.covered(EPOCH, 30)
    raw.covered(5, 6)
    raw.covered(20, 25)
    raw.trades({1: 1, 3: 29})
    assert raw.gaps() == [(2, 2, "inner")]


def test_coverage_of_another_stream_proves_nothing(raw: Raw) -> None:
    raw.covered(EPOCH, 30, kind="option")
    raw.covered(EPOCH, 30, currency="ETH")
    raw.covered(20, 30)
    raw.trades({2: 1, 4: 2})
    assert raw.gaps() == []


def test_beyond_the_covered_time_nothing_is_missing_yet(raw: Raw) -> None:
    """The newest minute is loaded before it counts as covered."""
    raw.covered(EPOCH, 10)
    raw.trades({1: 1, 2: 9, 4: 11})
    assert raw.gaps() == []


def test_a_head_before_the_time_asked_for_is_no_gap(raw: Raw) -> None:
    """The instrument is older than the span, or nobody knows how old it is."""
    raw.make("instruments")
    raw.insert("instruments", instrument_name=NAME, creation_timestamp=at(-5))
    raw.insert("instruments", instrument_name="BTC-PERPETUAL", creation_timestamp=None)
    raw.covered(0, 10)
    for name in (NAME, "BTC-PERPETUAL", "BTC-28MAR25"):
        raw.trades({5: 1, 7: 2}, name=name)
    assert raw.gaps() == [(6, 6, "inner")] * 3


def test_a_head_of_an_instrument_made_within_the_span_is_a_gap(raw: Raw) -> None:
    raw.make("instruments")
    raw.insert("instruments", instrument_name=NAME, creation_timestamp=at(0))
    raw.covered(0, 10)
    raw.trades({5: 1})
    assert raw.gaps() == [(1, 4, "head")]


def test_a_head_first_seen_in_a_later_span_is_no_gap(raw: Raw) -> None:
    """It may lie in the time between the spans."""
    raw.make("instruments")
    raw.insert("instruments", instrument_name=NAME, creation_timestamp=at(5))
    raw.covered(EPOCH, 10)
    raw.covered(20, 30)
    raw.trades({5: 21})
    assert raw.gaps() == []


def test_known_absent_ranges_are_split_off(raw: Raw) -> None:
    """However they came to be known: in pieces, twice, overlapping, or wider than what is missing."""
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


def test_what_is_there_is_there_whatever_was_absent_once(raw: Raw) -> None:
    raw.make("absent_trades")
    raw.covered(EPOCH, 10)
    raw.trades({1: 1, 2: 2, 3: 3})
    raw.insert("absent_trades", instrument_name=NAME, first_seq=1, last_seq=2)
    assert raw.gaps() == []


def test_what_retention_dropped_was_there(raw: Raw) -> None:
    """And what was missing beside it has no time any more, so nobody can say that it was asked for."""
    raw.make("dropped_trades")
    raw.covered(EPOCH, 10)
    raw.trades({9: 5, 11: 6})
    raw.insert("dropped_trades", instrument_name=NAME, first_seq=3, last_seq=5)
    raw.insert("dropped_trades", instrument_name=NAME, first_seq=7, last_seq=8)
    assert raw.gaps() == [(10, 10, "inner")]


def test_what_came_unreadable_is_missing_and_says_so(raw: Raw) -> None:
    """It is not in the table of trades; but the exchange has it, and asking again would bring the same."""
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


def test_a_tail_is_missing_where_the_last_seq_is_known(raw: Raw) -> None:
    """Also of an instrument that was never seen; one that never traded lacks nothing."""
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


def test_the_scope_is_what_was_asked_about(raw: Raw) -> None:
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


def test_what_was_never_covered_cannot_be_told(raw: Raw) -> None:
    """Nothing at all, or not the currency or kind asked about; the sentence names the command."""
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


def test_a_kind_that_there_is_not_is_the_user_s_mistake() -> None:
    with pytest.raises(UsageError, match="--kind 'swap'"):
        Scope.of([], ["swap"])

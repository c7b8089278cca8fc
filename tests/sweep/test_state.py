"""Checkpoint of a stream: covered spans as sets of times, and the sequence numbers at their edges."""

from __future__ import annotations

import json
from collections.abc import Collection
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from extract.deribit.streams import EPOCH_MS
from extract.sweep.state import LoadedTrade, Span, StreamState, merge, subtract

spans = st.tuples(st.integers(0, 60), st.integers(0, 15)).map(lambda each: Span(each[0], sum(each)))


def times(parts: list[Span]) -> set[int]:
    return {at for part in parts for at in range(part.start_ms, part.end_ms + 1)}


@given(st.lists(spans))
def test_merged_spans_cover_the_same_time_in_the_fewest_spans(parts: list[Span]) -> None:
    merged = merge(parts)
    assert times(merged) == times(parts)
    assert all(a.end_ms + 1 < b.start_ms for a, b in pairwise(merged))


@given(spans, st.lists(spans))
def test_subtract_is_the_set_difference(whole: Span, parts: list[Span]) -> None:
    rest = subtract(whole, parts)
    assert times(rest) == times([whole]) - times(parts)
    assert merge(rest) == rest


@given(st.lists(st.tuples(spans, st.dictionaries(st.sampled_from("ABC"), st.integers(1, 9))), max_size=6))
def test_state_is_the_same_after_json(covers: list[tuple[Span, dict[str, int]]]) -> None:
    """Sequence numbers exist only at the edges of covered spans."""
    state = StreamState()
    for span, seqs in covers:
        for part in subtract(span, state.covered):
            state.add_span(part, seqs, seqs)
    state.keep_recent({("A", 1): LoadedTrade(1_000, 7)}, 0)
    again = StreamState.from_json(json.loads(json.dumps(state.to_json())))
    assert again == state
    assert set(state.last_seq) == {span.end_ms for span in state.covered}
    assert set(state.first_seq) <= {span.start_ms for span in state.covered}


def test_wanted_time_without_since_follows_the_newest_span() -> None:
    state = StreamState(covered=[Span(10, 20), Span(40, 50)])
    assert state.wanted(None, 60) == [Span(51, 60)]
    assert state.wanted(0, 60) == [Span(0, 9), Span(21, 39), Span(51, 60)]
    assert state.wanted(None, 45) == []
    assert StreamState().wanted(None, EPOCH_MS + 5) == [Span(EPOCH_MS, EPOCH_MS + 5)]


def test_earlier_span_is_merged_with_the_later_one() -> None:
    """The later span's first_seq bounds the proof until both meet; then only its last_seq remains."""
    begin = EPOCH_MS + 1_000
    state = StreamState()
    state.add_span(Span(begin + 100, begin + 199), {"OLD": 8, "NEW": 1}, {"OLD": 9, "NEW": 3})
    assert state.first_after(begin + 99) == {"OLD": 8}
    state.add_span(Span(begin, begin + 49), {"OLD": 2}, {"OLD": 4})
    assert state.last_before(begin + 50, ()) == {"OLD": 4}
    state.add_span(Span(begin + 50, begin + 99), {"OLD": 5}, {"OLD": 7})
    assert state.covered == [Span(begin, begin + 199)]
    assert state.last_seq == {begin + 199: {"OLD": 9, "NEW": 3}}
    assert state.first_seq == {begin: {"OLD": 2, "NEW": 1}}


def test_recent_trades_are_dropped_once_their_time_is_covered() -> None:
    state = StreamState()
    state.add_span(Span(0, 100), {}, {})
    state.keep_recent(
        {("A", 1): LoadedTrade(50, 1), ("A", 2): LoadedTrade(99, 2), ("A", 3): LoadedTrade(150, 3)}, 10
    )
    assert set(state.recent) == {("A", 2), ("A", 3)}


def test_recent_trades_are_of_uncovered_time_and_of_the_end_of_the_newest_span() -> None:
    """A trade between two covered spans stays until its time is covered; the end of an older span is not read again."""
    state = StreamState(covered=[Span(0, 100), Span(1_000, 2_000)])
    trades = {("A", at_ms): LoadedTrade(at_ms, 1) for at_ms in (50, 99, 150, 1_500, 1_995, 2_500)}
    state.keep_recent(trades, 10)
    assert {at_ms for _, at_ms in state.recent} == {150, 1_995, 2_500}


def test_merged_state_has_the_recent_trades_of_both_loaders() -> None:
    """Otherwise the next run would load those of one of them again."""
    mine, theirs = ({(name, 1): LoadedTrade(50, 1)} for name in "AB")
    assert StreamState(recent=mine).merge_with(StreamState(recent=theirs)).recent == mine | theirs


def test_instrument_that_began_in_covered_time_bounds_no_earlier_span() -> None:
    """Its number 1 only shows that an earlier trade with the same number is another one."""
    begin = EPOCH_MS + 1_000
    state = StreamState()
    state.add_span(Span(begin, begin + 9), {"NEW": 1, "OLD": 5}, {"NEW": 3, "OLD": 6})
    state.add_span(
        Span(begin + 10, begin + 19), {"NEW": 4, "OLD": 7, "ASLEEP": 9}, {"NEW": 4, "OLD": 7, "ASLEEP": 9}
    )
    assert state.first_seq == {begin: {"NEW": 1, "OLD": 5, "ASLEEP": 9}}
    assert state.first_after(begin - 1) == {"OLD": 5, "ASLEEP": 9}
    assert state.smallest_after(begin - 1) == {"NEW": 1, "OLD": 5, "ASLEEP": 9}


def test_last_seq_of_an_earlier_span_is_retained_when_it_meets_a_later_one() -> None:
    """An instrument that did not trade in the later span continues from its last trade in the earlier one."""
    state = StreamState()
    state.add_span(Span(1_000, 2_000), {}, {"BTC-29DEC23": 7})
    state.add_span(
        Span(0, 999), {"BTC-PERPETUAL": 1, "BTC-29DEC23": 1}, {"BTC-PERPETUAL": 5, "BTC-29DEC23": 3}
    )
    assert state.covered == [Span(0, 2_000)]
    assert state.last_before(2_001, ()) == {"BTC-PERPETUAL": 5, "BTC-29DEC23": 7}


def test_expired_instruments_are_dropped_from_the_state() -> None:
    """When covered time grows past their expiry and the span has no trade of them."""
    expired, live, perpetual = "BTC-5JAN18", "BTC-29JUN18", "BTC-PERPETUAL"
    middle_ms, end_ms = 1_514_764_800_000, 1_517_443_200_000  # 2018-01-01, 2018-02-01
    first = {expired: 3, live: 4, perpetual: 5}
    state = StreamState()
    state.add_span(Span(EPOCH_MS, middle_ms), dict.fromkeys(first, 1), first)
    assert state.last_before(middle_ms + 1, ()) == first
    state.add_span(Span(middle_ms + 1, end_ms), {}, {expired: 9})
    state.add_span(Span(end_ms + 1, end_ms + 2), {}, {perpetual: 6})
    assert state.last_before(end_ms + 3, ()) == {live: 4, perpetual: 6}


def test_instrument_that_traded_after_the_date_in_its_name_is_not_dropped() -> None:
    name, day_ms = "BTC-5JAN18", 86_400_000
    state = StreamState()
    begin = 1_517_443_200_000  # 2018-02-01
    state.add_span(Span(begin, begin + day_ms - 1), {name: 8}, {name: 9})
    state = StreamState.from_json(state.to_json())
    state.add_span(Span(begin + day_ms, begin + 2 * day_ms), {}, {})
    assert state.last_before(begin + 2 * day_ms + 1, ()) == {name: 9}


def test_first_seqs_that_begin_at_one_are_dropped_once_their_instrument_has_expired() -> None:
    """Without a lookup, so that the state does not grow with history."""
    begin = 1_514_764_800_000  # 2018-01-01
    state = StreamState()
    state.add_span(Span(begin, begin + 86_400_000), {"BTC-5JAN18": 1, "BTC-PERPETUAL": 7}, {})
    state.add_span(Span(begin + 86_400_001, begin + 30 * 86_400_000), {}, {})
    assert state.first_seq == {begin: {"BTC-PERPETUAL": 7}}


TRADED = {name: [EPOCH_MS + at for at in times] for name, times in {
    "A": range(3, 60, 4), "B": (30, 31, 45), "C": (2, 58), "D": (10, 12, 14)
}.items()}  # fmt: skip


def seqs_in(span: Span) -> tuple[dict[str, int], dict[str, int]]:
    """The first and the last seq of each instrument within a span, by `TRADED`."""
    within = {
        name: [seq for seq, at in enumerate(ats, 1) if span.start_ms <= at <= span.end_ms]
        for name, ats in TRADED.items()
    }
    return {name: s[0] for name, s in within.items() if s}, {name: s[-1] for name, s in within.items() if s}


def loader(parts: list[Span]) -> StreamState:
    """The state of a loader that has loaded these spans, in this order."""
    state = StreamState()
    for span in parts:
        for part in subtract(Span(EPOCH_MS + 1 + span.start_ms, EPOCH_MS + 1 + span.end_ms), state.covered):
            state.add_span(part, *seqs_in(part))
    return state


class Database:
    """A `SeqLookup` of a database that has all of TRADED."""

    def last_seqs(self, span: Span, names: Collection[str]) -> dict[str, int]:
        return {name: seq for name, seq in seqs_in(span)[1].items() if name in names}

    def first_seqs(self, span: Span) -> dict[str, int]:
        return seqs_in(span)[0]


def restored(state: StreamState) -> StreamState:
    """The state after JSON, with a database to query."""
    return StreamState.from_json(json.loads(json.dumps(state.to_json())), Database())


@given(st.lists(spans, max_size=8))
def test_queried_sequence_numbers_equal_stored_ones(parts: list[Span]) -> None:
    """A state that is restored before each span knows the same as one that stores the numbers, and is smaller."""
    stored, queried = StreamState(), restored(StreamState())
    for span in parts:
        for part in subtract(Span(EPOCH_MS + 1 + span.start_ms, EPOCH_MS + 1 + span.end_ms), stored.covered):
            for state in (stored, queried):
                state.last_before(part.start_ms, TRADED)
                state.add_span(part, *seqs_in(part))
            if part.start_ms % 2:
                queried = restored(queried)
    assert queried.covered == stored.covered
    for span in stored.covered:
        assert queried.last_before(span.end_ms + 1, TRADED) == stored.last_before(span.end_ms + 1, TRADED)
        assert queried.first_after(span.start_ms - 1) == stored.first_after(span.start_ms - 1)
    assert set(queried.to_json()) == {"covered", "recent"}


def test_spans_that_this_process_has_swept_are_not_queried() -> None:
    """A backfill would query all of its history for each new instrument."""

    class Empty(Database):
        def last_seqs(self, span: Span, names: Collection[str]) -> dict[str, int]:
            raise AssertionError(f"{names} were queried")

    state = StreamState(lookup=Empty())
    for start_ms in range(EPOCH_MS, EPOCH_MS + 60, 10):
        part = Span(start_ms, start_ms + 9)
        state.last_before(part.start_ms, TRADED)
        state.add_span(part, *seqs_in(part))
    assert state.last_before(EPOCH_MS + 60, TRADED) == seqs_in(Span(EPOCH_MS, EPOCH_MS + 59))[1]


@given(st.lists(spans, max_size=5), st.lists(spans, max_size=5))
def test_merged_state_of_two_loaders_equals_that_of_a_single_loader(
    mine: list[Span], theirs: list[Span]
) -> None:
    """Covered time and the sequence numbers at its edges, computed from the trades themselves."""
    both = restored(loader(mine).merge_with(loader(theirs)))
    assert both.covered == merge([*loader(mine).covered, *loader(theirs).covered])
    for span in both.covered:
        firsts, lasts = seqs_in(span)
        assert both.last_before(span.end_ms + 1, TRADED) == lasts
        assert both.first_after(span.start_ms - 1) == {name: seq for name, seq in firsts.items() if seq > 1}


def test_json_does_not_change_when_the_state_does() -> None:
    """A load package is written while the next window is fetched."""
    state = StreamState()
    state.add_span(Span(EPOCH_MS + 1_000, EPOCH_MS + 1_999), {"A": 3}, {"A": 7})
    written = state.to_json()
    before = json.dumps(written)
    state.add_span(Span(EPOCH_MS + 2_000, EPOCH_MS + 2_999), {"A": 8, "B": 5}, {"A": 9, "B": 6})
    assert json.dumps(written) == before != json.dumps(state.to_json())

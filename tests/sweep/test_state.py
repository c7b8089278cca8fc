"""What is remembered: spans of time as sets, and the seqs at their edges."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from extract.deribit.streams import EPOCH_MS
from extract.sweep.state import LoadedTrade, Span, StreamState, merge, subtract

spans = st.tuples(st.integers(0, 60), st.integers(0, 15)).map(lambda each: Span(each[0], sum(each)))


def times(parts: list[Span]) -> set[int]:
    return {at for part in parts for at in range(part.start_ms, part.end_ms + 1)}


@given(st.lists(spans))
def test_merged_spans_are_the_same_time_in_the_fewest_pieces(parts: list[Span]) -> None:
    merged = merge(parts)
    assert times(merged) == times(parts)
    assert all(a.end_ms + 1 < b.start_ms for a, b in pairwise(merged))


@given(spans, st.lists(spans))
def test_what_is_left_is_the_set_difference(whole: Span, parts: list[Span]) -> None:
    rest = subtract(whole, parts)
    assert times(rest) == times([whole]) - times(parts)
    assert merge(rest) == rest


@given(st.lists(st.tuples(spans, st.dictionaries(st.sampled_from("ABC"), st.integers(1, 9))), max_size=6))
def test_json_keeps_everything(covers: list[tuple[Span, dict[str, int]]]) -> None:
    """JSON text and back: the same state; edges stand only at the edges of covered spans."""
    state = StreamState()
    for span, seqs in covers:
        for part in subtract(span, state.covered):
            state.cover(part, seqs, seqs)
    state.remember({("A", 1): LoadedTrade(1_000, 7)}, 0)
    again = StreamState.from_json(json.loads(json.dumps(state.to_json())))
    assert again == state
    assert set(state.last_seq) == {span.end_ms for span in state.covered}
    assert set(state.first_seq) <= {span.start_ms for span in state.covered}


def test_wanted_without_since_goes_on_from_the_newest() -> None:
    state = StreamState(covered=[Span(10, 20), Span(40, 50)])
    assert state.wanted(None, 60) == [Span(51, 60)]
    assert state.wanted(0, 60) == [Span(0, 9), Span(21, 39), Span(51, 60)]
    assert state.wanted(None, 45) == []
    assert StreamState().wanted(None, EPOCH_MS + 5) == [Span(EPOCH_MS, EPOCH_MS + 5)]


def test_an_earlier_span_grows_up_to_a_later_one() -> None:
    """The later one's first seqs bound the proof until they meet; then its last seqs alone go on."""
    begin = EPOCH_MS + 1_000
    state = StreamState()
    state.cover(Span(begin + 100, begin + 199), {"OLD": 8, "NEW": 1}, {"OLD": 9, "NEW": 3})
    assert state.first_after(begin + 99) == {"OLD": 8}
    state.cover(Span(begin, begin + 49), {"OLD": 2}, {"OLD": 4})
    assert state.last_before(begin + 50) == {"OLD": 4}
    state.cover(Span(begin + 50, begin + 99), {"OLD": 5}, {"OLD": 7})
    assert state.covered == [Span(begin, begin + 199)]
    assert state.last_seq == {begin + 199: {"OLD": 9, "NEW": 3}}
    assert state.first_seq == {begin: {"OLD": 2}}


def test_recent_trades_are_forgotten_once_their_time_is_covered() -> None:
    state = StreamState()
    state.cover(Span(0, 100), {}, {})
    state.remember(
        {("A", 1): LoadedTrade(50, 1), ("A", 2): LoadedTrade(99, 2), ("A", 3): LoadedTrade(150, 3)}, 10
    )
    assert set(state.recent) == {("A", 2), ("A", 3)}


def test_who_began_within_the_covered_time_has_no_seq_before_it() -> None:
    """Only instruments older than the span bound an earlier one: what later windows see of the others does not."""
    begin = EPOCH_MS + 1_000
    state = StreamState()
    state.cover(Span(begin, begin + 9), {"NEW": 1, "OLD": 5}, {"NEW": 3, "OLD": 6})
    state.cover(
        Span(begin + 10, begin + 19), {"NEW": 4, "OLD": 7, "ASLEEP": 9}, {"NEW": 4, "OLD": 7, "ASLEEP": 9}
    )
    assert state.first_seq == {begin: {"OLD": 5, "ASLEEP": 9}}


def test_time_that_grows_into_covered_time_hands_its_last_seqs_on() -> None:
    """An instrument that did not trade within the later span is proven from what the earlier one saw of it."""
    state = StreamState()
    state.cover(Span(1_000, 2_000), {}, {"BTC-29DEC23": 7})
    state.cover(Span(0, 999), {"BTC-PERPETUAL": 1, "BTC-29DEC23": 1}, {"BTC-PERPETUAL": 5, "BTC-29DEC23": 3})
    assert state.covered == [Span(0, 2_000)]
    assert state.last_before(2_001) == {"BTC-PERPETUAL": 5, "BTC-29DEC23": 7}


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
            state.cover(part, *seqs_in(part))
    return state


@given(st.lists(spans, max_size=5), st.lists(spans, max_size=5))
def test_two_loaders_together_know_what_one_would_that_had_loaded_both(
    mine: list[Span], theirs: list[Span]
) -> None:
    """Covered time, and at its edges the seqs, told from the trades themselves."""
    both = loader(mine).united(loader(theirs))
    assert both.covered == merge([*loader(mine).covered, *loader(theirs).covered])
    for span in both.covered:
        firsts, lasts = seqs_in(span)
        assert {n: s for n, s in both.last_seq[span.end_ms].items() if n in lasts} == lasts
        assert {n: s for n, s in both.first_seq[span.start_ms].items() if n in firsts} == {
            name: seq for name, seq in firsts.items() if seq > 1
        }
    assert StreamState.from_json(json.loads(json.dumps(both.to_json()))) == both


def test_what_was_written_down_stays_when_the_state_moves_on() -> None:
    """A package is written while the next window is swept already."""
    state = StreamState()
    state.cover(Span(EPOCH_MS + 1_000, EPOCH_MS + 1_999), {"A": 3}, {"A": 7})
    written = state.to_json()
    before = json.dumps(written)
    state.cover(Span(EPOCH_MS + 2_000, EPOCH_MS + 2_999), {"A": 8, "B": 5}, {"A": 9, "B": 6})
    assert json.dumps(written) == before != json.dumps(state.to_json())

"""Prefetching changes neither the items nor their order."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.sweep.prefetch import prefetch

WAIT_S = 20.0


def nothing() -> None: ...


@given(st.lists(st.integers()), st.integers(1, 5))
def test_items_are_complete_and_in_order(items: list[int], depth: int) -> None:
    assert list(prefetch((item for item in items), depth=depth, cancel=nothing)) == items


def test_at_most_depth_items_are_prefetched() -> None:
    made: list[int] = []
    two = threading.Event()

    def numbers() -> Iterator[int]:
        for n in range(10):
            made.append(n)
            if n == 3:
                two.set()
            yield n

    taken = prefetch(numbers(), depth=2, cancel=nothing)
    assert next(taken) == 0
    assert two.wait(WAIT_S), "one taken, two waiting, one in hand"
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]
    assert list(taken) == list(range(1, 10))


def test_item_that_has_to_be_taken_is_taken_before_the_next_one_is_produced() -> None:
    """What follows may depend on what the consumer did with the items before it."""
    done: list[int] = []

    def numbers() -> Iterator[int]:
        for n in range(6):
            assert n == 0 or n % 3 or done[: n - 1] == list(range(n - 1)), (
                "the items before the last one are done"
            )
            yield n

    for n in prefetch(numbers(), depth=9, cancel=nothing, waits_after=lambda n: n % 3 == 2):
        time.sleep(0.02)
        done.append(n)
    assert done == list(range(6))


def test_error_is_raised_after_the_items_before_it() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("here")

    taken = prefetch(failing(), depth=3, cancel=nothing)
    assert next(taken) == 1
    with pytest.raises(ValueError, match="here"):
        next(taken)


def test_closing_the_generator_cancels_and_closes_the_items() -> None:
    """`cancel` ends a wait within the items, which are closed before `close` returns."""
    waits, closed = threading.Event(), threading.Event()

    def waiting() -> Iterator[int]:
        try:
            yield 1
            waits.wait(WAIT_S)
            yield 2
            raise AssertionError("not reached")
        finally:
            closed.set()

    taken = prefetch(waiting(), depth=1, cancel=waits.set)
    assert next(taken) == 1
    taken.close()
    assert waits.is_set()
    assert closed.is_set()

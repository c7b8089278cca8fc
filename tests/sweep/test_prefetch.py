"""Working ahead changes nothing but when things are done."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.sweep.prefetch import prefetch

WAIT_FOR_OTHER_RUN_S = 20.0


def nothing() -> None: ...


@given(st.lists(st.integers()), st.integers(1, 5))
def test_items_come_whole_and_in_order(items: list[int], depth: int) -> None:
    assert list(prefetch((item for item in items), depth=depth, cancel=nothing)) == items


def test_items_are_made_before_they_are_asked_for_and_no_more_than_that() -> None:
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
    assert two.wait(WAIT_FOR_OTHER_RUN_S), "one taken, two waiting, one in hand"
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]
    assert list(taken) == list(range(1, 10))


def test_what_is_raised_comes_after_what_was_made() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("here")

    taken = prefetch(failing(), depth=3, cancel=nothing)
    assert next(taken) == 1
    with pytest.raises(ValueError, match="here"):
        next(taken)


def test_who_stops_asking_ends_the_making() -> None:
    """Even one that waits: `cancel` ends the wait, and the items are closed before the caller goes on."""
    waits, closed = threading.Event(), threading.Event()

    def waiting() -> Iterator[int]:
        try:
            yield 1
            waits.wait(WAIT_FOR_OTHER_RUN_S)
            yield 2
            raise AssertionError("nobody wants more")
        finally:
            closed.set()

    taken = prefetch(waiting(), depth=1, cancel=waits.set)
    assert next(taken) == 1
    taken.close()
    assert waits.is_set()
    assert closed.is_set()

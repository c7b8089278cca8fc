"""Fixtures of the health tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.commands import Done, tape_here


@pytest.fixture
def tape() -> Callable[..., Done]:
    return tape_here

"""The tape recorded in 2019, whose recorder started late: 70 instruments lack their head."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from extract.errors import CannotTellError
from extract.sandbox.tape import Tape
from tests.support.loaded_user import User
from tests.support.recorded import RECORDED_TAPE, needs_recordings


@pytest.mark.slow
@needs_recordings
def test_recorded_tape_lacks_only_70_heads(new_user: Callable[[Tape], User]) -> None:
    """19,104 seqs, all known to be absent, which is provisional for an hour; until then there is nothing to repair."""
    user = new_user(Tape.load(RECORDED_TAPE))
    user.load()
    done = user.tape("gaps", "--json")
    gaps = json.loads(done.out)
    assert done.code == CannotTellError.exit_code
    assert len(gaps) == len({gap["instrument_name"] for gap in gaps}) == 70
    assert {(gap["where"], gap["first_missing_seq"], gap["known_absent"]) for gap in gaps} == {
        ("head", 1, True)
    }
    assert sum(gap["missing"] for gap in gaps) == 19_104
    assert sum(each["trades"] for each in json.loads(user.tape("status", "--json").out)) == 73_548
    user.exchange.requests.clear()
    assert user.tape("repair").out == "There is nothing to fetch.\n"
    assert user.requested_methods() == set()

"""Faults come when and as they are asked for, each time the same."""

from __future__ import annotations

import time
from collections import Counter

import httpx
import pytest

from extract.errors import UsageError
from extract.sandbox.faults import KINDS, Faults
from tests.support.crawler import CLIENT


def ask(exchange, method: str = "get_time") -> httpx.Response:
    return CLIENT.get(f"{exchange.url}/public/{method}")


def test_a_script_hits_the_requests_it_names(start_exchange, small_tape):
    """Counted from 1; ranges and lists too; all others are answered."""
    exchange = start_exchange(small_tape, faults=["2:503", "4-5:11051"])
    assert [ask(exchange).status_code for _ in range(6)] == [200, 503, 200, 400, 400, 200]


def test_429_says_how_long_to_wait(start_exchange, small_tape):
    """Retry-After in seconds, and the exchange's own code in the body."""
    answer = ask(start_exchange(small_tape, faults="1:429,retry_after=0.02"))
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "0.02"
    assert answer.json()["error"]["code"] == 10028


@pytest.mark.parametrize(
    ("kind", "status", "code"), [("10028", 400, 10028), ("11051", 400, 11051), ("error200", 200, 13888)]
)
def test_api_errors_come_in_json(start_exchange, small_tape, kind, status, code):
    """In HTTP 400, or in HTTP 200 as it happens too."""
    answer = ask(start_exchange(small_tape, faults=f"1:{kind}"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_html_for_json(start_exchange, small_tape):
    """HTTP 200 with a body that is no JSON."""
    answer = ask(start_exchange(small_tape, faults="1:html"))
    assert answer.status_code == 200
    assert answer.text.startswith("<html>")


def test_a_cut_body_ends_before_its_length(start_exchange, small_tape):
    """The client sees it on the wire, not only in the JSON."""
    exchange = start_exchange(small_tape, faults="1:cut")
    with pytest.raises(httpx.RemoteProtocolError):
        ask(exchange, "get_currencies")
    assert ask(exchange).status_code == 200


def test_a_reset_is_no_answer(start_exchange, small_tape):
    """And is remembered with status 0; the next connection is served."""
    exchange = start_exchange(small_tape, faults="1:reset")
    with pytest.raises(httpx.ReadError):
        ask(exchange)
    assert ask(exchange).status_code == 200
    assert [request.status for request in exchange.requests] == [0, 200]


def test_slow_is_late_but_right(start_exchange, small_tape):
    """The answer is whole, after the seconds that were asked for."""
    exchange = start_exchange(small_tape, faults="1:slow,slow=0.15")
    began_s = time.monotonic()
    assert ask(exchange).json()["result"] == exchange.now_ms
    assert time.monotonic() - began_s >= 0.15


def test_only_the_methods_named_are_hit_and_counted(start_exchange, small_tape):
    """`on=` keeps the others out."""
    exchange = start_exchange(small_tape, faults="2:503,on=get_currencies")
    methods = ["get_time", "get_currencies", "get_time", "get_currencies"]
    assert [ask(exchange, method).status_code for method in methods] == [200, 200, 200, 503]


def test_a_rate_is_reproducible_and_about_right():
    """The same seed hits the same requests with the same kinds; another seed others."""
    faults = Faults.parse("rate=0.1,kinds=429+503+cut,seed=7")
    drawn = [faults.of(number) for number in range(1, 5001)]
    assert drawn == [Faults.parse("rate=0.1,kinds=429+503+cut,seed=7").of(n) for n in range(1, 5001)]
    assert drawn != [Faults.parse("rate=0.1,kinds=429+503+cut,seed=8").of(n) for n in range(1, 5001)]
    counts = Counter(drawn)
    assert set(counts) == {None, "429", "503", "cut"}
    assert 400 < 5000 - counts[None] < 600


def test_nothing_asked_for_is_nothing_wrong():
    """None and the empty text."""
    assert {Faults.parse(spec).of(number) for spec in (None, "", []) for number in range(1, 100)} == {None}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_served(start_exchange, small_tape, kind):
    """Each is met once, and the exchange goes on."""
    exchange = start_exchange(small_tape, faults=f"1:{kind},slow=0.01")
    try:
        assert ask(exchange).status_code in (200, 400, 408, 429, 500, 502, 503, 504)
    except httpx.TransportError:
        assert kind in ("cut", "reset")
    assert ask(exchange).json()["result"] == exchange.now_ms


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("3:foo", "'foo' is no kind of fault"),
        ("429", "'429' has no request number"),
        ("0:429", "'0:429' has no request number"),
        ("5-3:429", "ends before it begins"),
        ("rate=2", "share from 0 to 1, not '2'"),
        ("rate=nan", "share from 0 to 1"),
        ("rate=much", "'rate=much' needs a number"),
        ("rate=0.1,kinds=429+foo", "'foo' is no kind"),
        ("speed=3", "'speed' is no setting"),
        ("slow=-1", "'slow=-1' needs a number"),
    ],
)
def test_a_bad_text_is_one_sentence_that_names_it(spec, says):
    """A UsageError, before anything is started."""
    with pytest.raises(UsageError, match=says):
        Faults.parse(spec)

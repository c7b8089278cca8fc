"""Faults are injected as specified, and reproducibly."""

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


def test_script_fails_the_numbered_requests(start_exchange, small_tape):
    """Counted from 1, also ranges and lists; all others succeed."""
    exchange = start_exchange(small_tape, faults="2:503,4-5:11051")
    assert [ask(exchange).status_code for _ in range(6)] == [200, 503, 200, 400, 400, 200]


def test_429_has_retry_after(start_exchange, small_tape):
    """The header is in seconds, and the body has the exchange's code."""
    answer = ask(start_exchange(small_tape, faults="1:429,retry_after=0.02"))
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "0.02"
    assert answer.json()["error"]["code"] == 10028


@pytest.mark.parametrize(
    ("kind", "status", "code"), [("10028", 400, 10028), ("11051", 400, 11051), ("error200", 200, 13888)]
)
def test_api_errors_are_json(start_exchange, small_tape, kind, status, code):
    """They are returned with HTTP 400 or with 200, as by the real exchange."""
    answer = ask(start_exchange(small_tape, faults=f"1:{kind}"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_html_fault_returns_html_with_status_200(start_exchange, small_tape):
    """The client gets a page of HTML instead of JSON."""
    answer = ask(start_exchange(small_tape, faults="1:html"))
    assert answer.status_code == 200
    assert answer.text.startswith("<html>")


def test_cut_fault_ends_the_body_before_its_content_length(start_exchange, small_tape):
    """The HTTP client raises an error."""
    exchange = start_exchange(small_tape, faults="1:cut")
    with pytest.raises(httpx.RemoteProtocolError):
        ask(exchange, "get_currencies")
    assert ask(exchange).status_code == 200


def test_reset_fault_sends_no_response(start_exchange, small_tape):
    """It is recorded with status 0, and the next connection works."""
    exchange = start_exchange(small_tape, faults="1:reset")
    with pytest.raises(httpx.ReadError):
        ask(exchange)
    assert ask(exchange).status_code == 200
    assert [request.status for request in exchange.requests] == [0, 200]


def test_slow_fault_delays_the_right_response(start_exchange, small_tape):
    """The response is complete after the configured delay."""
    exchange = start_exchange(small_tape, faults="1:slow,slow=0.15")
    began_s = time.monotonic()
    assert ask(exchange).json()["result"] == exchange.now_ms
    assert time.monotonic() - began_s >= 0.15


def test_on_restricts_faults_to_matching_methods(start_exchange, small_tape):
    """Other methods are neither counted nor failed."""
    exchange = start_exchange(small_tape, faults="2:503,on=get_currencies")
    methods = ["get_time", "get_currencies", "get_time", "get_currencies"]
    assert [ask(exchange, method).status_code for method in methods] == [200, 200, 200, 503]


def test_rate_is_reproducible():
    """A seed determines which requests fail and how; the share is about right."""
    faults = Faults.parse("rate=0.1,kinds=429+503+cut,seed=7")
    drawn = [faults.of(number) for number in range(1, 5001)]
    assert drawn == [Faults.parse("rate=0.1,kinds=429+503+cut,seed=7").of(n) for n in range(1, 5001)]
    assert drawn != [Faults.parse("rate=0.1,kinds=429+503+cut,seed=8").of(n) for n in range(1, 5001)]
    counts = Counter(drawn)
    assert set(counts) == {None, "429", "503", "cut"}
    assert 400 < 5000 - counts[None] < 600


def test_empty_specification_injects_no_fault():
    """None, an empty text and an empty list are empty specifications."""
    assert {Faults.parse(spec).of(number) for spec in (None, "") for number in range(1, 100)} == {None}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_fault_can_be_injected(start_exchange, small_tape, kind):
    """The request after it succeeds."""
    exchange = start_exchange(small_tape, faults=f"1:{kind},slow=0.01")
    try:
        assert ask(exchange).status_code in (200, 400, 408, 429, 500, 502, 503, 504)
    except httpx.TransportError:
        assert kind in ("cut", "reset")
    assert ask(exchange).json()["result"] == exchange.now_ms


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("3:foo", "'foo' is not a kind of fault"),
        ("429", "'429' has no request number"),
        ("0:429", "'0:429' has no request number"),
        ("5-3:429", "ends before it begins"),
        ("rate=2", "share from 0 to 1, not '2'"),
        ("rate=nan", "share from 0 to 1"),
        ("rate=much", "'rate=much' needs a number"),
        ("rate=0.1,kinds=429+foo", "'foo' is not a kind"),
        ("speed=3", "'speed' is not a setting"),
        ("slow=-1", "'slow=-1' needs a number"),
    ],
)
def test_invalid_specification_is_reported(spec, message):
    """The UsageError names the wrong part."""
    with pytest.raises(UsageError, match=message):
        Faults.parse(spec)

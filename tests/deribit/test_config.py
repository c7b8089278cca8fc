"""Lists in the configuration: plain names or JSON, and one sentence for anything else."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from extract.deribit.config import LIMITS, DeribitConfig, deribit_config, parse_names
from extract.errors import UsageError


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("BTC", ["BTC"]),
        ("BTC,ETH", ["BTC", "ETH"]),
        (" BTC, ETH ", ["BTC", "ETH"]),
        ('["BTC", "ETH"]', ["BTC", "ETH"]),
        ("['BTC']", ["BTC"]),
        ("[]", None),
    ],
)
def test_currencies_in_the_environment(
    text: str, names: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCES__DERIBIT__CURRENCIES", text)
    assert deribit_config().currencies == names


@pytest.mark.parametrize("value", [None, "", []])
def test_no_names_are_all(value: str | list[str] | None) -> None:
    assert parse_names("currencies", value) == []
    assert deribit_config().currencies is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            '["any"]',
            "currencies of [sources.deribit] has no name 'any'; leave currencies out to load all of them.",
        ),
        (
            "ANY",
            "currencies of [sources.deribit] has no name 'any'; leave currencies out to load all of them.",
        ),
        ("[BTC", "currencies of [sources.deribit] is '[BTC'; write names with commas between them."),
        ("[1]", "currencies of [sources.deribit] is '[1]'; write names with commas between them."),
    ],
)
def test_names_that_cannot_be_loaded_are_a_usage_error(
    text: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCES__DERIBIT__CURRENCIES", text)
    with pytest.raises(UsageError) as raised:
        deribit_config()
    assert str(raised.value) == sentence


@pytest.mark.parametrize(
    ("explicit", "sentence"),
    [
        ({"window_trades": "abc"}, "window_trades of [sources.deribit] is 'abc'; it must be a whole number."),
        ({"timeout_s": "abc"}, "timeout_s of [sources.deribit] is 'abc'; it must be a number."),
        ({"page_size": 100.5}, "page_size of [sources.deribit] is 100.5; it must be a whole number."),
        (
            {"currencies": ["BTC", None]},
            "currencies of [sources.deribit] is ['BTC', None]; give a list of names.",
        ),
    ],
)
def test_argument_of_another_type_is_a_usage_error(explicit: dict[str, Any], sentence: str) -> None:
    """dlt converts what it reads from files and the environment, not what a program gives."""
    with pytest.raises(UsageError) as raised:
        deribit_config(**explicit)
    assert str(raised.value) == sentence


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", ["nan", "inf", "0", "-1", "1e308", "99999999999999999999", "abc", ""])
def test_numbers_are_within_limits(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of requests in flight each has a thread, and no number that is too great for a timer or a page is used."""
    monkeypatch.setenv(f"SOURCES__DERIBIT__{name.upper()}", value)
    with pytest.raises(UsageError, match=name):
        deribit_config()


def test_every_number_has_limits() -> None:
    assert {
        each.name for each in fields(DeribitConfig) if type(each.default) in (int, float)
    } == LIMITS.keys()

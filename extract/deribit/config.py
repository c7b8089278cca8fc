"""Configuration of the source, resolved by dlt.

`.dlt/config.toml` `[sources.deribit]`, or `SOURCES__DERIBIT__API_URL` and so on in the environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import msgspec
from dlt.common.configuration import configspec, resolve_configuration
from dlt.common.configuration.exceptions import ConfigurationException
from dlt.common.configuration.specs import BaseConfiguration

from extract.errors import UsageError

KINDS = ("future", "option", "spot", "future_combo", "option_combo")
"""Kinds of instruments; each trade has exactly one."""

LIMITS: Mapping[str, tuple[float, float]] = {
    "requests_per_second": (0.0001, 1_000_000),
    "page_size": (2, 10_000),
    "requests_in_flight": (1, 256),
    "window_trades": (1, 100_000_000),
    "timeout_s": (0.001, 86_400),
    "retry_total_s": (0.001, 86_400),
}
"""Least and greatest value of each number; whole numbers have whole limits.

Pages of trades with the same time overlap by one trade. Each request in flight has a thread.
"""


@configspec
class DeribitConfig(BaseConfiguration):
    """Addresses of the exchange, the trades to load, and limits of requests."""

    api_url: str = "https://www.deribit.com/api/v2"
    """The live host: serves the newest 24 hours."""
    history_url: str = "https://history.deribit.com/api/v2"
    """The history host: everything since 2016, some seconds behind the live one."""
    currencies: str | list[str] | None = None
    """Currencies to load, see `parse_names`; None = all that the exchange lists."""
    kinds: str | list[str] | None = None
    """Kinds to load, see `parse_names`; None = all."""
    series: str | list[str] | None = None
    """Series besides trades to load, or `none`; None = all except book_summaries, which have no history."""
    volatility_resolutions: str = "3600"
    """Resolutions of the volatility index, with commas between them: 60, 3600 or 43200 seconds, or 1D."""
    requests_per_second: float = 20.0
    """Maximum requests per second, to both hosts together."""
    page_size: int = 10_000
    """Trades per page; at most 1,000 from the live host."""
    requests_in_flight: int = 4
    """Maximum concurrent requests."""
    window_trades: int = 1_000_000
    """Trades after which a load package is closed: the most that an interrupted run loses, apart from prefetched trades."""
    timeout_s: float = 30.0
    """Seconds to wait for data of an answer."""
    retry_total_s: float = 300.0
    """Seconds after which a request is no longer retried."""

    def on_resolved(self) -> None:
        self.currencies = parse_names("currencies", self.currencies) or None
        self.kinds = parse_names("kinds", self.kinds) or None
        self.series = parse_names("series", self.series) or None
        for url in (self.api_url, self.history_url):
            if not url.startswith(("http://", "https://")):
                raise UsageError(
                    "api_url and history_url of [sources.deribit] should read like "
                    f"{DeribitConfig.api_url}; one of them does not begin with http:// or https://."
                )
        if _is_test(self.api_url) != _is_test(self.history_url):
            raise UsageError(
                "Only one of api_url and history_url of [sources.deribit] is of the test network, whose trades must not be "
                "mixed with others; set both to the same network."
            )
        for name, (least, most) in LIMITS.items():
            value = getattr(self, name)
            if not isinstance(value, int if isinstance(least, int) else (int, float)):
                what = "a whole number" if isinstance(least, int) else "a number"
                raise UsageError(f"{name} of [sources.deribit] is {value!r}; it must be {what}.")
            if not least <= value <= most:
                raise UsageError(
                    f"{name} of [sources.deribit] is {value:g}; it must be from {least:,} to {most:,}."
                )


def _is_test(url: str) -> bool:
    try:
        return (urlsplit(url).hostname or "").startswith("test.")
    except ValueError:  # malformed: DeribitClient reports it
        return False


def parse_names(setting: str, value: str | Sequence[str] | None) -> list[str]:
    """The names in `BTC`, `BTC, ETH`, `["BTC", "ETH"]` or a list of them. Raises UsageError naming the `setting`."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = msgspec.json.decode(value.replace("'", '"'), type=list[str])
        except msgspec.DecodeError:
            raise UsageError(
                f"{setting} of [sources.deribit] is {value!r}; write names with commas between them."
            ) from None
    names = value.replace(",", " ").split() if isinstance(value, str) else list(value or ())
    if not all(isinstance(name, str) for name in names):
        raise UsageError(f"{setting} of [sources.deribit] is {value!r}; give a list of names.")
    if "any" in map(str.lower, names):
        raise UsageError(
            f"{setting} of [sources.deribit] has no name 'any'; leave {setting} out to load all of them."
        )
    return names


def deribit_config(**explicit: object) -> DeribitConfig:
    """The configuration as dlt resolves it; `explicit` values win. Raises UsageError for one of the wrong type."""
    given = {name: value for name, value in explicit.items() if value is not None}
    try:
        return resolve_configuration(DeribitConfig(), sections=("sources", "deribit"), explicit_value=given)
    except ConfigurationException as error:
        raise UsageError(f"[sources.deribit] cannot be read: {' '.join(str(error).split())}") from error

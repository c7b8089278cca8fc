"""What the source is told: one typed configuration, resolved dlt's own way.

`.dlt/config.toml` `[sources.deribit]`, or `SOURCES__DERIBIT__API_URL` and so on in the environment.
"""

from __future__ import annotations

from dlt.common.configuration import configspec, resolve_configuration
from dlt.common.configuration.exceptions import ConfigurationException
from dlt.common.configuration.specs import BaseConfiguration

from extract.errors import UsageError

KINDS = ("future", "option", "spot", "future_combo", "option_combo")
"""Every kind that the exchange names; a trade has exactly one."""

LEAST_PAGE = 2
"""Pages overlap by a trade where time cannot tell trades apart."""


@configspec
class DeribitConfig(BaseConfiguration):
    """Where the exchange is, what is wanted of it, and how hard it may be asked."""

    api_url: str = "https://www.deribit.com/api/v2"
    """The live host: serves the newest 24 hours."""
    history_url: str = "https://history.deribit.com/api/v2"
    """The history host: everything since 2016, some seconds behind the live one."""
    currencies: list[str] | None = None
    """Currencies to take; none named = every one that the exchange names."""
    kinds: list[str] | None = None
    """Kinds to take; none named = all of them."""
    requests_per_second: float = 20.0
    """Ceiling on requests a second, over both hosts."""
    page_size: int = 10_000
    """Largest page asked for; the live host's own limit of 1,000 is kept below it."""
    requests_in_flight: int = 4
    """Requests under way at once."""
    window_trades: int = 1_000_000
    """Trades after which a load package is closed: what a kill can cost at most, but for what was fetched ahead."""
    timeout_s: float = 30.0
    """Seconds to wait for one answer."""
    retry_total_s: float = 300.0
    """Seconds to go on trying one request before giving up."""

    def on_resolved(self) -> None:
        for url in (self.api_url, self.history_url):
            if not url.startswith(("http://", "https://")):
                raise UsageError(
                    "api_url and history_url of [sources.deribit] should read like "
                    f"{DeribitConfig.api_url}; one of them does not begin with http:// or https://."
                )
        if min(self.requests_per_second, self.requests_in_flight, self.window_trades, self.timeout_s) <= 0:
            raise UsageError(
                "requests_per_second, requests_in_flight, window_trades and timeout_s of [sources.deribit] "
                "must be above 0."
            )
        if self.page_size < LEAST_PAGE:
            raise UsageError(
                f"page_size of [sources.deribit] must be at least {LEAST_PAGE}: a smaller page cannot be passed."
            )


def deribit_config(**explicit: object) -> DeribitConfig:
    """The configuration as dlt resolves it; `explicit` values win. Raises UsageError for one of the wrong type."""
    given = {name: value for name, value in explicit.items() if value is not None}
    try:
        return resolve_configuration(DeribitConfig(), sections=("sources", "deribit"), explicit_value=given)
    except ConfigurationException as error:
        raise UsageError(f"[sources.deribit] cannot be read: {' '.join(str(error).split())}") from error

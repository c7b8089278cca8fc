"""Client of the ClickHouse Cloud API against a server that rejects undocumented requests."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.cost.billing.charges import Days
from extract.cost.billing.clickhouse_cloud import (
    REQUESTS_PER_SECOND,
    CloudApiClient,
    UsageRecord,
    cloud_api_settings,
    kind_of,
)
from extract.cost.billing.money import total
from extract.deribit.rate_limit import RateLimiter
from extract.errors import CannotTellError, FinalError, RetriableError, TapeError, UsageError
from extract.retry import Retrier, RetryPolicy
from tests.support.cloud_api import KEY_SECRET, CloudApi, record

MARCH = date(2026, 3, 1)


class Clock:
    """A clock that only sleeping advances."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def client_of(clock: Clock | None = None) -> CloudApiClient:
    clock = clock or Clock()
    return CloudApiClient(
        cloud_api_settings(),
        retrier=Retrier(RetryPolicy(attempts=3, total_s=60.0, first_s=1.0), sleep=clock.sleep, clock=clock),
        limiter=RateLimiter(REQUESTS_PER_SECOND, sleep=clock.sleep, clock=clock),
    )


def test_usage_of_two_years_is_requested_in_windows_within_the_rate_limit(cloud_api: CloudApi) -> None:
    """Each day once, at most 31 in a request, at most ten requests in ten seconds by the server's count."""
    clock = Clock()
    cloud_api.clock = clock
    days = Days(date(2024, 1, 15), date(2026, 1, 14))
    cloud_api.records = [record(day, storageCHC="0.1") for day in days.each()]
    with client_of(clock) as client:
        records = client.usage(days)
    assert [each.day for each in records] == days.each()
    assert (len(cloud_api.windows), cloud_api.too_fast) == (24, 0)
    assert cloud_api.windows[0] == (date(2024, 1, 15), date(2024, 2, 14))
    assert cloud_api.windows[-1][1] == days.last


@given(st.integers(1, 400), st.integers(1, 40))
def test_windows_contain_each_day_once(length: int, most: int) -> None:
    days = Days(MARCH, MARCH + timedelta(length - 1))
    windows = days.windows(most)
    assert [day for window in windows for day in window.each()] == days.each()
    assert max(map(len, windows)) <= most


def test_charges_of_a_record_add_up_to_its_total() -> None:
    """Kinds by the API's names, new ones too; a discount is a separate charge."""
    day = UsageRecord(
        MARCH,
        "service",
        "a",
        Decimal("9.5"),
        False,
        {"computeCHC": Decimal(10), "backupCHC": None, "newThingCHC": Decimal("0.5")},
    )
    charges = {charge.kind: charge.usd for charge in day.charges()}
    assert charges == {"compute": 10, "new thing": Decimal("0.5"), "discount": Decimal("-1.0")}
    assert kind_of("interRegionTier1DataTransferCHC") == "inter region tier 1 data transfer"


def test_binary_rounding_error_is_not_a_charge() -> None:
    """The API adds 0.1 and 0.2 to 0.30000000000000004; the charges add up to its total exactly."""
    metrics = {"computeCHC": Decimal("0.1"), "storageCHC": Decimal("0.2")}
    day = UsageRecord(MARCH, "service", "a", Decimal("0.30000000000000004"), True, metrics)
    assert {charge.kind for charge in day.charges()} == {"compute", "storage"}
    assert total(charge.usd for charge in day.charges()) == day.total


BODY = {"error": "NO"}


@pytest.mark.parametrize(
    ("faults", "error", "sentence"),
    [
        ([(401, {}, BODY)], UsageError, "CLICKHOUSE_CLOUD_API_KEY_ID"),
        ([(403, {}, BODY)], UsageError, "may read billing"),
        ([(404, {}, BODY)], UsageError, "CLICKHOUSE_CLOUD_ORGANIZATION_ID"),
        ([(400, {}, BODY)], FinalError, "HTTP 400: NO"),
        ([(503, {}, BODY)] * 3, RetriableError, "tried 3 times"),
        ([(200, {}, b"<html>")], FinalError, "another shape"),
        ([(200, {}, {"result": {"costs": {"computeUnitCHC": 1}}})], FinalError, "another shape"),
        ([(200, {}, {"result": {"costs": []}})], FinalError, "grandTotalCHC"),
    ],
)
def test_failed_request_raises_the_error_of_its_status(
    cloud_api: CloudApi, faults: list[tuple], error: type[TapeError], sentence: str
) -> None:
    """None of them is a bill of 0."""
    cloud_api.faults.extend(faults)
    with client_of() as client, pytest.raises(error, match=sentence):
        client.usage(Days(MARCH, MARCH))


def test_retry_waits_for_retry_after(cloud_api: CloudApi) -> None:
    """The wait is at least as long as the API demands; then the request succeeds."""
    clock = Clock()
    cloud_api.faults.extend([(429, {"Retry-After": "7"}, BODY), (500, {}, b"")])
    cloud_api.records = [record(MARCH, computeCHC="1.5")]
    with client_of(clock) as client:
        assert [each.total for each in client.usage(Days(MARCH, MARCH))] == [Decimal("1.5")]
    assert clock.slept[0] >= 7


def test_records_that_do_not_add_up_to_their_total_are_an_error(cloud_api: CloudApi) -> None:
    """A difference of half a cent is an error."""
    cloud_api.records = [record(MARCH, computeCHC="1.5")]
    cloud_api.grand_total_off = Decimal("0.005")
    with client_of() as client, pytest.raises(CannotTellError, match=r"add up to 1\.5 CHC"):
        client.usage(Days(MARCH, MARCH))


def test_error_of_a_wrong_key_has_no_secret(
    cloud_api: CloudApi, cloud_env: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error omits the key even if the API repeats it; so does the repr of the settings."""
    cloud_env.setenv("CLICKHOUSE_CLOUD_API_KEY_ID", "somebodyElse")
    assert KEY_SECRET not in repr(cloud_api_settings())
    with client_of() as client, pytest.raises(UsageError, match="HTTP 401") as raised:
        client.usage(Days(MARCH, MARCH))
    assert KEY_SECRET not in str(raised.value)
    assert "somebodyElse" not in str(raised.value)


def test_key_is_never_sent_unencrypted(cloud_env: pytest.MonkeyPatch) -> None:
    """http:// is allowed for loopback only; a missing variable is named."""
    for url in (
        "http://api.clickhouse.cloud",
        "api.clickhouse.cloud",
        "https://me:pw@x",
        "http://127.0.0.1.evil.com",
    ):
        cloud_env.setenv("CLICKHOUSE_CLOUD_API_URL", url)
        with pytest.raises(UsageError, match="CLICKHOUSE_CLOUD_API_URL"):
            cloud_api_settings()
    for name in ("ORGANIZATION_ID", "API_KEY_ID", "API_KEY_SECRET"):
        with cloud_env.context() as patch:
            patch.delenv(f"CLICKHOUSE_CLOUD_{name}")
            with pytest.raises(UsageError, match=f"CLICKHOUSE_CLOUD_{name} is not set"):
                cloud_api_settings()

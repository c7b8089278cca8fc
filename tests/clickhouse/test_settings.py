"""Numbers in the settings of the connection are refused in one sentence if nothing can use them."""

from __future__ import annotations

import pytest

from extract.clickhouse.settings import clickhouse_settings
from extract.errors import UsageError

CLOUD = {"CLICKHOUSE_CLOUD_HOST": "cloud.example", "CLICKHOUSE_CLOUD_PASSWORD": "secret"}


@pytest.mark.parametrize(
    "name", ["CLICKHOUSE_CLOUD_PORT", "CLICKHOUSE_CLOUD_WAKE_S", "CLICKHOUSE_LOCAL_PORT"]
)
@pytest.mark.parametrize("value", ["-1", "nan", "inf", "1e308", "9" * 20, "9" * 5000, "many", "8123.5"])
def test_number_is_a_port_or_seconds(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for each, text in {**CLOUD, name: value}.items():
        monkeypatch.setenv(each, text)
    with pytest.raises(UsageError, match=f"{name} is "):
        clickhouse_settings("local" if "LOCAL" in name else "cloud")

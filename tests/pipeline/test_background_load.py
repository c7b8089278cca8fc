"""A package is loaded in the background while the next one is extracted."""

from __future__ import annotations

import time

import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.settings import clickhouse_settings
from extract.errors import OutsideError
from extract.pipeline.load import BackgroundLoader, open_pipeline


def test_failed_load_is_raised_by_the_next_check_and_by_wait(
    small_windows: None, clickhouse_client: Client
) -> None:
    """The extraction ends soon, whichever of the two it calls first; the error is reported once by `wait`."""
    pipeline = open_pipeline(clickhouse_settings())
    pipeline.run([{"n": 0}], table_name="numbers")
    clickhouse_client.command("alter table deribit_raw.numbers add constraint refused check n < 0")
    pipeline.extract([{"n": 1}], table_name="numbers")
    pipeline.normalize()
    with BackgroundLoader(pipeline) as loader:
        loader.check()
        loader.start()
        with pytest.raises(OutsideError, match="refused"):
            check_for(loader, seconds=60)
        with pytest.raises(OutsideError, match="refused"):
            loader.wait()
        loader.check()
        loader.wait()


def check_for(loader: BackgroundLoader, seconds: float) -> None:
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s:
        loader.check()
        time.sleep(0.01)

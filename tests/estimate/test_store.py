"""Plans and measurements are saved as JSON in the working directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from extract.deribit.streams import Stream
from extract.estimate.estimator import Plan, StreamPlan
from extract.estimate.plan import plan_key
from extract.estimate.store import delete_plan, load_measurement, load_plan, save_measurement, save_plan
from extract.source.options import RunOptions


@pytest.fixture(autouse=True)
def tape_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TAPE_DIR", str(tmp_path))
    return tmp_path


def test_plan_is_stored_by_its_options_until_it_is_deleted(tape_dir: Path) -> None:
    """Upper or lower case and the order of currencies make no difference; an unreadable file holds no plan."""
    streams = [StreamPlan(Stream("BTC", "option"), 1, 2, 4, "counted")]
    plan = Plan(streams, 1, 2, 3.0, 4, 5, "2026-01-01T00:00:00Z", ["an input"])
    key = plan_key(RunOptions("7d", None, ["eth", "BTC"]))
    save_plan(plan, key)
    assert load_plan(plan_key(RunOptions("7d", None, ["BTC", "ETH"]))) == plan
    assert load_plan(plan_key(RunOptions("8d", None, ["BTC", "ETH"]))) is None
    delete_plan(key)
    assert load_plan(key) is None
    (tape_dir / "plan.json").write_text("{")
    assert load_plan(key) is None


def test_plan_of_another_version_is_ignored() -> None:
    save_measurement("plan", {"key": {"trades": 7}})
    assert load_plan("key") is None


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_unreadable_measurement_is_none(tape_dir: Path, content: str) -> None:
    save_measurement("volume", {"trades": 7})
    assert load_measurement("volume") == {"trades": 7}
    (tape_dir / "volume.json").write_text(content)
    assert load_measurement("volume") is None

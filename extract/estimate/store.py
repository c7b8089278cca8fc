"""Saved plans and measurements: JSON files in the working directory `.tape`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import msgspec

from extract.estimate.estimator import Plan
from extract.paths import tape_dir

_PLANS = "plan"


def save_plan(plan: Plan, key: str) -> None:
    """Write the plan to `.tape/plan.json`, replacing an earlier one with the same key."""
    save_measurement(_PLANS, {**_plans(), key: asdict(plan)})


def load_plan(key: str) -> Plan | None:
    """The plan saved under the key; None where there is none, or one of an incompatible version."""
    try:
        return msgspec.convert(_plans().get(key), Plan)
    except msgspec.ValidationError:
        return None


def delete_plan(key: str) -> None:
    """Remove the plan saved under the key, if any."""
    plans = _plans()
    if plans.pop(key, None) is not None:
        save_measurement(_PLANS, plans)


def save_measurement(name: str, figures: dict[str, Any]) -> None:
    """Write `.tape/NAME.json`, replacing the earlier measurement."""
    path = tape_dir() / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1))


def load_measurement(name: str) -> dict[str, Any] | None:
    """The content of `.tape/NAME.json`; None where there is no readable JSON object."""
    try:
        figures = json.loads((tape_dir() / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None
    return figures if isinstance(figures, dict) else None


def _plans() -> dict[str, Any]:
    return load_measurement(_PLANS) or {}

"""Recorded responses and trades of the real exchange; tests that need them are skipped where they are missing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from extract.paths import ROOT

SHARED = Path(os.environ.get("DERIBIT_TAPE_SHARED") or ROOT.parent / "shared") / "data" / "deribit"
RECORDED_TAPE = SHARED / "tape_2019_options.ndjson.gz"
"""73,548 option trades of 2019, for `Tape.load`."""
needs_recordings = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no recorded data in {SHARED}")


def response(name: str) -> Any:
    return json.loads((SHARED / "recorded" / name).read_text())

"""Paths of the checkout and of the working directory, TAPE_DIR."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def dlt_dir(mode: str) -> Path:
    """dlt's working directory of a target, local or cloud; separate, because the targets have separate states."""
    return tape_dir() / ("dlt" if mode == "local" else f"dlt-{mode}")


def tape_dir() -> Path:
    """Directory of everything stored between runs: data, logs, dlt's state. `TAPE_DIR`, by default `.tape/`."""
    return Path(os.environ.get("TAPE_DIR") or ROOT / ".tape").resolve()

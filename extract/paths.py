"""Where things are on disk: the checkout, and the one directory in it that is written to."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def dlt_dir(mode: str) -> Path:
    """What dlt keeps of one target, local or cloud: in one directory for both, each would go on from the other's state."""
    return tape_dir() / ("dlt" if mode == "local" else f"dlt-{mode}")


def tape_dir() -> Path:
    """Directory of everything that is kept between runs: data, logs, dlt's state. `TAPE_DIR`, else `.tape/`."""
    return Path(os.environ.get("TAPE_DIR") or ROOT / ".tape").resolve()

"""Paths of the checkout and of the working directory, TAPE_DIR."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def dlt_dir(mode: str) -> Path:
    """dlt's working directory of a target, local or cloud, and raw database; separate, because each has a separate state."""
    directory = tape_dir()
    with suppress(OSError):  # reported when a file is written
        make_private_dir(directory)
    names = ["dlt", *([] if mode == "local" else [mode]), *filter(None, [os.environ.get("TAPE_RAW_SCHEMA")])]
    return directory / "-".join(names)


def tape_dir() -> Path:
    """Directory of everything stored between runs: data, logs, dlt's state. `TAPE_DIR`, by default `.tape/`."""
    return Path(os.environ.get("TAPE_DIR") or ROOT / ".tape").resolve()


def make_private_dir(directory: Path) -> None:
    """Create TAPE_DIR, accessible only to its owner. An existing directory is only changed if it is `.tape/`."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory == ROOT / ".tape":
        directory.chmod(0o700)

"""Start-up tuning hides pandas, and pyarrow and dlt work without it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from extract.paths import ROOT

TUNED = """
import gc, sys
from extract.process import configure_process, gc_frozen
configure_process()
import pyarrow
assert pyarrow.array([1, None]).to_pylist() == [1, None]
import dlt.common.libs.pyarrow
import extract.clickhouse.destination
assert "pandas" not in sys.modules and not gc.isenabled()
with gc_frozen():
    assert gc.isenabled() and gc.get_freeze_count() > 0
"""


@pytest.mark.process
def test_configured_process_imports_dlt_and_pyarrow_without_pandas() -> None:
    """pandas is installed; garbage collection is off until `gc_frozen`, which excludes the imported modules."""
    import pandas  # noqa: F401

    subprocess.run([sys.executable, "-c", TUNED], cwd=ROOT, check=True, timeout=60)

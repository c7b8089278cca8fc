"""Start-up tuning hides pandas and configures libraries; pyarrow and dlt work with it."""

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
from clickhouse_driver.columns.datecolumn import DateColumn
assert "pandas" not in sys.modules and not gc.isenabled()
assert pyarrow.default_memory_pool().backend_name == "system"
assert not DateColumn.date_lut
with gc_frozen():
    assert gc.isenabled() and gc.get_freeze_count() > 0
"""


@pytest.mark.process
def test_configured_process_imports_dlt_and_pyarrow_without_pandas() -> None:
    """Garbage collection is off until `gc_frozen`, which excludes the imported modules. pandas is installed.

    Arrow returns the memory that it frees, and clickhouse-driver computes no table of dates.
    """
    import pandas  # noqa: F401

    subprocess.run([sys.executable, "-c", TUNED], cwd=ROOT, check=True, timeout=60)

"""What a process of ours does without, and what it must still be able to do."""

from __future__ import annotations

import subprocess
import sys

from extract.paths import ROOT

LEAN = """
import gc, sys
from extract.process import begin_lean
begin_lean()
import pyarrow
assert pyarrow.array([1, None]).to_pylist() == [1, None]
assert "pandas" not in sys.modules and not gc.isenabled()
import dlt.common.libs.pyarrow
import extract.clickhouse.destination
assert "clickhouse_driver.columns" not in sys.modules
"""


def test_a_lean_process_takes_in_neither_pandas_nor_the_native_client() -> None:
    """Both are there: the embedded ClickHouse brings the one and dlt the other."""
    import clickhouse_driver.columns  # noqa: F401
    import pandas  # noqa: F401

    subprocess.run([sys.executable, "-c", LEAN], cwd=ROOT, check=True, timeout=60)

"""dbt's schema tests of one target, run in a separate process."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from extract.clickhouse.client import Database
from extract.clickhouse.settings import MART_DATABASE
from extract.errors import CannotTellError
from extract.paths import ROOT, tape_dir

SELECTED = "test_name:matches_declared_schema"
TESTS_FAILED = 1
"""dbt's exit code if all tests ran and some failed."""


@dataclass(frozen=True)
class Drift:
    """A property of a model's table that differs from its yml; an empty text where it does not exist."""

    table: str
    property: str
    declared: str
    actual: str


def fetch_drifts(database: Database) -> list[Drift]:
    """Run the tests of one target and return what differs. Raises CannotTellError if dbt could not run all of them."""
    target = database.settings.mode
    # A directory per target, because dbt parses the project again whenever the target changes.
    artifacts = tape_dir() / "schema-align" / target
    results = artifacts / "run_results.json"
    results.unlink(missing_ok=True)
    command = [str(Path(sys.executable).parent / "dbt"), "test", "--select", SELECTED, "--no-use-colors"]
    command += ["--target", target, "--project-dir", str(ROOT / "dbt_project")]
    command += ["--profiles-dir", str(ROOT / "profiles")]
    command += ["--target-path", str(artifacts), "--log-path", str(artifacts)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode not in (0, TESTS_FAILED) or not results.exists():
        raise _cannot_tell(target, done.stdout)
    drifts: list[Drift] = []
    for result in json.loads(results.read_text())["results"]:
        if result["status"] in ("error", "skipped"):
            raise _cannot_tell(target, result["message"] or done.stdout)
        if result["unique_id"].startswith("test.") and result["status"] != "pass":  # the others are hooks
            # dbt only counts the rows of a failed test.
            rows = database.rows(result["compiled_code"])
            drifts += [Drift(f"{MART_DATABASE}.{table}", *texts) for table, *texts in rows]
    return drifts


def _cannot_tell(target: str, output: str) -> CannotTellError:
    last = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "no output")
    return CannotTellError(
        f"dbt could not run the schema tests of {target} ({last}); "
        f"try: dbt test --target {target} --select {SELECTED}"
    )

"""dbt's schema tests of one target, run in a separate process."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from extract.clickhouse.client import Database
from extract.clickhouse.settings import MART_DATABASE, ClickHouseSettings
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


class SchemaTests:
    """The tests of one target; they start when the object is made."""

    def __init__(self, settings: ClickHouseSettings) -> None:
        self.settings = settings
        # A directory per target, because dbt parses the project again whenever the target changes.
        self._artifacts = tape_dir() / "schema-align" / settings.mode
        self._results = self._artifacts / "run_results.json"
        self._results.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            self._command(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def fetch_drifts(self, database: Database) -> list[Drift]:
        """Wait for the tests and return what differs. Raises CannotTellError if dbt could not run all of them."""
        output, _ = self._process.communicate()
        if self._process.returncode not in (0, TESTS_FAILED) or not self._results.exists():
            raise self._cannot_tell(output)
        drifts: list[Drift] = []
        for result in json.loads(self._results.read_text())["results"]:
            if result["status"] in ("error", "skipped"):
                raise self._cannot_tell(result["message"] or output)
            if result["status"] != "pass":
                # dbt only counts the rows of a failed test.
                rows = database.rows(result["compiled_code"])
                drifts += [Drift(f"{MART_DATABASE}.{table}", *texts) for table, *texts in rows]
        return drifts

    def stop(self) -> None:
        """End dbt if it is still running."""
        self._process.kill()
        self._process.wait()

    def _command(self) -> list[str]:
        command = [str(Path(sys.executable).parent / "dbt"), "test", "--select", SELECTED, "--no-use-colors"]
        command += ["--target", self.settings.mode, "--project-dir", str(ROOT / "dbt_project")]
        command += ["--profiles-dir", str(ROOT / "profiles")]
        return [*command, "--target-path", str(self._artifacts), "--log-path", str(self._artifacts)]

    def _cannot_tell(self, output: str) -> CannotTellError:
        last = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "no output")
        return CannotTellError(
            f"dbt could not run the schema tests of {self.settings.mode} ({last}); "
            f"try: dbt test --target {self.settings.mode} --select {SELECTED}"
        )

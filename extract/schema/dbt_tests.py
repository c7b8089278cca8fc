"""dbt's own schema tests, run as a command of its own for one target; what they found, as rows."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from clickhouse_connect.driver.client import Client

from extract.clickhouse.settings import MART_DATABASE, ClickHouseSettings
from extract.errors import CannotTellError
from extract.paths import ROOT, tape_dir

SELECTED = "test_name:matches_declared_schema"
TESTS_FAILED = 1  # dbt's exit code for "it ran, and not all is well"


@dataclass(frozen=True)
class Drift:
    """One thing of a model that its yml declares otherwise; '' is none."""

    table: str
    thing: str
    declared: str
    actual: str


class SchemaTests:
    """The tests of one target, running from the moment that this is made."""

    def __init__(self, settings: ClickHouseSettings) -> None:
        self.settings = settings
        # A directory for each target: dbt parses the project anew whenever the target changes.
        self._artifacts = tape_dir() / "schema-align" / settings.mode
        self._results.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            self._command(),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def _results(self) -> Path:
        return self._artifacts / "run_results.json"

    def drifts(self, client: Client) -> list[Drift]:
        """Waits for the end. Raises CannotTellError if dbt could not test everything."""
        said, _ = self._process.communicate()
        if self._process.returncode not in (0, TESTS_FAILED) or not self._results.exists():
            raise self._cannot_tell(said)
        found: list[Drift] = []
        for result in json.loads(self._results.read_text())["results"]:
            if result["status"] in ("error", "skipped"):
                raise self._cannot_tell(result["message"] or said)
            if result["status"] != "pass":
                # dbt counts the rows of a failed test; its query names them.
                rows = client.query(result["compiled_code"]).result_rows
                found += [Drift(f"{MART_DATABASE}.{table}", *things) for table, *things in rows]
        return found

    def stop(self) -> None:
        """Ends dbt, if it still runs."""
        self._process.kill()
        self._process.wait()

    def _command(self) -> list[str]:
        project = str(ROOT / "dbt_project")
        words = ["test", "--select", SELECTED, "--target", self.settings.mode, "--no-use-colors"]
        words += ["--project-dir", project, "--profiles-dir", str(ROOT / "profiles")]
        words += ["--target-path", str(self._artifacts), "--log-path", str(self._artifacts)]
        return [str(Path(sys.executable).parent / "dbt"), *words]

    def _cannot_tell(self, said: str) -> CannotTellError:
        last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "no word of it")
        return CannotTellError(
            f"dbt could not run the schema tests of {self.settings.mode} ({last}); "
            f"try: dbt test --target {self.settings.mode} --select {SELECTED}"
        )

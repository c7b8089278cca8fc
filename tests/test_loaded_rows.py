"""Every statement on raw tables takes the rows of finished load packages only, through one definition."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from extract.paths import ROOT
from extract.source.tables import RAW_TABLES, loaded_relation

EXTRACT = ROOT / "extract"
FILLED_BY_LOADS = [name for name, table in RAW_TABLES.items() if "_dlt_load_id" in table.columns]

EVERY_ROW = {
    "backup/restore.py": "sentences",
    "backup/tables.py": "creates tables as they were",
    "clickhouse/finished.py": "the definition, and the list of packages that are not finished",
    "clickhouse/disk.py": "bytes of a whole table",
    "clickhouse/loads.py": "deletes the rows of unfinished packages",
    "clickhouse/loads.sql": "finds unfinished packages, and deletes rows that no reader needs",
    "cost/measure/database_usage.py": "names of tables in measurements",
    "cost/measure/database_usage.sql": "statements of the query log by table",
    "cost/measure/storage_probe.py": "creates a table like deribit_raw.trades",
    "cost/plan/plan.py": "names of tables in measurements",
    "coverage/gaps.py": "sentences",
    "estimate/plan.py": "a sentence",
    "export/tables.py": "columns and partitions of a table; its rows are read through `finished_rows`",
    "pipeline/load.py": "a sentence",
    "pipeline/summary.py": "a sentence",
    "push/database.py": "copies rows, selected by the ids of finished packages",
    "push/partitions.py": "a sentence",
    "push/push.py": "a sentence",
    "push/reconcile.py": "prints statements that delete rows",
    "push/push.sql": "counts rows by load package; `finished_loads` selects among them",
    "retention/agreement.sql": "writes dropped_trades",
    "retention/levels.py": "drops whole partitions, so every row of them must be in the models",
    "schema/align.py": "compares columns",
    "sweep/repair.py": "a sentence",
    "verify/verify.py": "a sentence, and months that retention has dropped",
    "source/tables.py": "creates tables, and reads those that are not filled by load packages",
}
"""Files that name a raw table in a statement themselves, and why."""


def statements(path: Path) -> Iterator[str]:
    """The text of a .sql file without comments; each string of a .py file, with names for what it formats."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".sql":
        yield re.sub(r"--.*", "", text)
        return
    tree = ast.parse(text)
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                part.value if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}"
                for part in node.values
                if isinstance(part, ast.Constant | ast.FormattedValue)
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def names_a_raw_table(text: str) -> bool:
    return bool(re.search(r"\bderibit_raw\.|\{RAW_DATABASE\}\.", text))


def test_no_statement_names_a_raw_table_itself() -> None:
    """A new reader uses `<trades>`, which cannot be read without the finished packages; exceptions have a reason."""
    naming = {
        str(path.relative_to(EXTRACT))
        for path in EXTRACT.rglob("*.*")
        if path.suffix in (".py", ".sql") and path.relative_to(EXTRACT).parts[0] not in ("cli", "sandbox")
        for text in statements(path)
        if names_a_raw_table(text)
    }
    assert naming - EVERY_ROW.keys() == set(), "read the placeholder <table> instead"
    assert EVERY_ROW.keys() - naming == set(), "no longer needed"


def test_commands_only_name_raw_tables_in_messages() -> None:
    """`extract/cli` runs no SQL on them."""
    for path in (EXTRACT / "cli").glob("*.py"):
        for text in statements(path):
            if names_a_raw_table(text):
                assert not re.search(r"\b(select|from|join)\b", text, re.IGNORECASE), (path, text)


@pytest.mark.parametrize("name", FILLED_BY_LOADS)
def test_relation_of_each_table_requires_a_finished_package(name: str) -> None:
    relation = " ".join(loaded_relation(name, {name, "_dlt_loads"}).split())
    loads = "(select * from deribit_raw._dlt_loads where status = 0)"
    assert (
        f"_dlt_load_id in (select load_id from {loads} where" in relation
        or f"cityHash64(_dlt_load_id) in (select cityHash64(load_id) from {loads})" in relation
    )


@pytest.mark.parametrize("name", FILLED_BY_LOADS)
def test_table_is_empty_without_the_list_of_packages(name: str) -> None:
    """The first run was killed before it created the list."""
    assert "deribit_raw" not in loaded_relation(name, {name})

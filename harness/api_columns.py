"""Write extract/serve/tables.toml from the models of the dbt project: the columns that answers of the API have.

    .venv/bin/python -m harness.api_columns

The wheel has no dbt project, so the server reads the columns from that file. A test fails while it is not current.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
PATH = ROOT / "extract/serve/tables.toml"
TABLES = (
    *("trades", "ohlcv_1m", "instruments", "current_prices", "funding_1h", "funding_1d", "settlements"),
    *(
        "open_interest_1d",
        "option_outcomes",
        "futures_outcomes",
        "iv_smile_1h",
        "iv_tenors_1h",
        "option_chain_1h",
    ),
    *("volatility_index_1h", "delivery_prices", "backfill_progress"),
)
HEADER = """\
# Columns of the tables that the API answers from: type in an answer (`?`: may be null) and description. A `second` is a time
# without a fraction.
# Written by `python -m harness.api_columns` from the models of the dbt project.
"""
TYPES = {
    "String": "text",
    "Bool": "flag",
    "Date": "day",
    "DateTime": "second",
    "DateTime64": "time",
    "Float64": "decimal",
    "Decimal": "decimal",
    **dict.fromkeys(("Int64", "UInt8", "UInt16", "UInt32", "UInt64"), "integer"),
}


def main() -> None:
    PATH.write_text(rendered(), encoding="utf-8")


def rendered() -> str:
    """The content that the file should have."""
    docs = _doc_blocks()
    models = _models()
    parts = [HEADER]
    for table in TABLES:
        parts.append(f"\n[{table}]\n")
        for column in models[table]["columns"]:
            text = re.sub(
                r"{{ ?doc\('(\w+)'\) ?}}", lambda name: docs[name[1]], column.get("description", "")
            )
            value = [answer_type(column["data_type"]), " ".join(text.split())]
            parts.append(f"{column['name']} = {json.dumps(value, ensure_ascii=False)}\n")
    return "".join(parts)


def answer_type(clickhouse_type: str) -> str:
    """Type in an answer of a ClickHouse type: `decimal?` of `Nullable(Float64)`."""
    name = re.sub(r"(LowCardinality|Nullable)\(", "", clickhouse_type)
    return TYPES[re.split(r"[(),]", name)[0]] + ("?" if "Nullable(" in clickhouse_type else "")


def _models() -> dict[str, Any]:
    files = (ROOT / "dbt_project/models").rglob("*.yml")
    return {model["name"]: model for file in files for model in _load(file).get("models") or []}


def _load(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {}


def _doc_blocks() -> dict[str, str]:
    text = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "dbt_project/models").glob("*.md"))
    blocks = re.findall(r"{% docs (\w+) %}\s*(.*?)\s*{% enddocs %}", text, flags=re.DOTALL)
    return {name: " ".join(content.split()) for name, content in blocks}


if __name__ == "__main__":
    main()

"""Properties of the tables of one ClickHouse, as far as two databases have to agree on them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from extract.clickhouse.client import Database
from extract.clickhouse.settings import MART_DATABASE, RAW_DATABASE
from extract.errors import UsageError
from extract.paths import ROOT

Properties = dict[str, str]
"""Text by property, named as in the dbt test `matches_declared_schema`: `engine`, `type of price`. Empty: none."""
Catalogue = dict[str, Properties]
"""Properties by table, named with its database."""

MACRO = ROOT / "dbt_project" / "macros" / "table_facts.sql"


def facts_sql(databases: Sequence[str] = (RAW_DATABASE, MART_DATABASE)) -> str:
    """The query of the dbt macro `table_facts`. Raises UsageError outside of a checkout."""
    if not MACRO.exists():
        raise UsageError(f"There is no {MACRO}; run this command from a checkout of the project.")
    macro = re.search(r"{% macro table_facts\(databases\) %}(.*){% endmacro %}", MACRO.read_text(), re.DOTALL)
    assert macro, f"{MACRO} defines the macro"
    return macro[1].replace("{{ databases }}", ", ".join(f"'{name}'" for name in databases))


def read_catalogue(database: Database) -> Catalogue:
    """Properties of every table of the raw and the mart database."""
    catalogue: Catalogue = {}
    for name, table, property_, value in database.rows(facts_sql()):
        catalogue.setdefault(f"{name}.{table}", {})[property_] = value
    return catalogue

"""Schema and pipeline state of dlt on cloud: create the tables as a run does, merge the states of both databases.

The state is written last, so that a run into cloud that reads it also finds the data that the state says is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any

from dlt.common.schema import Schema

from extract.clickhouse.destination.stored import decode_state, open_job_client
from extract.clickhouse.settings import ClickHouseSettings
from extract.deribit.instruments import merge_known
from extract.deribit.series.state import merge_keys
from extract.errors import CannotTellError
from extract.pipeline.errors import unwrap_dlt_errors
from extract.pipeline.load import PIPELINE_NAME
from extract.push.database import STATEMENTS, PushDatabase
from extract.source.tables import SERIES_TABLES
from extract.sweep.state import StreamState

SCHEMA_NAME = "deribit"

State = dict[str, Any]
"""State of the source `deribit`."""


def stored_schema(local: ClickHouseSettings) -> Schema:
    """The newest schema that a run into local has stored."""
    with unwrap_dlt_errors(), open_job_client(local, Schema(SCHEMA_NAME)) as client:
        stored = client.get_stored_schema(SCHEMA_NAME)
    if stored is None:
        raise CannotTellError(
            "local has no dlt schema yet, so there is nothing to push; run: dlt pipeline run"
        )
    return parse_schema(stored.schema)


def parse_schema(text: str) -> Schema:
    """A schema from the JSON that dlt stores."""
    return Schema.from_stored_schema(json.loads(text))


def create_tables(cloud: ClickHouseSettings, schema: Schema, tables: Iterable[str]) -> None:
    """Create those of `tables` that are missing, and the database, on cloud as the destination does for a run."""
    with unwrap_dlt_errors(), open_job_client(cloud, schema) as client:
        client.initialize_storage()
        client.update_stored_schema(
            only_tables=[name for name in tables if name in schema.tables], force=True
        )


def newest_state(
    database: PushDatabase, among: Collection[str] | None = None, excluding: Collection[str] = ()
) -> State | None:
    """The state that a run would resume from, of the finished packages in `among` (None: all) without `excluding`."""
    rows = database.rows(STATEMENTS["stored_states"], pipeline=PIPELINE_NAME)
    for (load_id,) in rows:
        if (among is None or load_id in among) and load_id not in excluding:
            [[text]] = database.rows(STATEMENTS["state"], pipeline=PIPELINE_NAME, load_id=load_id)
            return dict(decode_state(text).get("sources", {}).get(SCHEMA_NAME, {}))
    return None


def exchange_name(state: State | None) -> str | None:
    """The exchange whose trades a state covers."""
    return state.get("exchange") if state else None


def merge_states(one: State, other: State) -> State:
    """The union of two states: time covered by either, instruments known to either."""
    resources: dict[str, Any] = {}
    sides = [state.get("resources", {}) for state in (one, other)]
    for name in sorted(sides[0].keys() | sides[1].keys()):
        first, second = (side.get(name, {}) for side in sides)
        resources[name] = {**first, **second}
        if name == "trades":
            resources[name] = {
                stream: StreamState.from_json(first.get(stream, {}))
                .merge_with(StreamState.from_json(second.get(stream, {})))
                .to_json()
                for stream in sorted(first.keys() | second.keys())
            }
        if name == "instruments":
            known = merge_known(first.get("known", {}), second.get("known", {}))
            resources[name]["known"] = dict(sorted(known.items()))
        if name in SERIES_TABLES:
            resources[name] = merge_keys(first, second)
    return {**one, **other, "resources": resources}

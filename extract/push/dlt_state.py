"""Schema and pipeline state of dlt on cloud: create the tables as a run does, merge the states of both databases.

The state in `_dlt_pipeline_state` is written last, so that a run into cloud that reads it also finds the data that the
state says is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any, cast

from dlt.common import pendulum
from dlt.common.pipeline import TPipelineState
from dlt.common.schema import Schema
from dlt.common.storages.load_package import create_load_id
from dlt.common.utils import uniq_id
from dlt.common.versioned_state import decompress_state
from dlt.pipeline.state_sync import bump_pipeline_state_version_if_modified, state_doc

from extract.clickhouse.destination import tape_clickhouse
from extract.clickhouse.destination.job_client import TapeClickHouseClient
from extract.clickhouse.settings import RAW_DATABASE, ClickHouseSettings
from extract.deribit.instruments import merge_known
from extract.errors import CannotTellError
from extract.pipeline.dlt_internals import unwrap_dlt_errors
from extract.pipeline.load import PIPELINE_NAME
from extract.push.database import STATEMENTS, PushDatabase
from extract.push.partitions import LOADS, STATE
from extract.sweep.state import StreamState

SCHEMA_NAME = "deribit"

State = dict[str, Any]
"""dlt's pipeline state, decompressed."""


def stored_schema(local: ClickHouseSettings) -> Schema:
    """The newest schema that a run into local has stored."""
    with unwrap_dlt_errors(), _client(local, Schema(SCHEMA_NAME)) as client:
        stored = client.get_stored_schema(SCHEMA_NAME)
    if stored is None:
        raise CannotTellError(
            "local has no dlt schema yet, so there is nothing to push; run: dlt pipeline run"
        )
    return Schema.from_stored_schema(json.loads(stored.schema))


def create_tables(cloud: ClickHouseSettings, schema: Schema, tables: Iterable[str]) -> None:
    """Create those of `tables` that are missing, and the database, on cloud as the destination does for a run."""
    with unwrap_dlt_errors(), _client(cloud, schema) as client:
        client.initialize_storage()
        client.update_stored_schema(
            only_tables=[name for name in tables if name in schema.tables], force=True
        )


def _client(settings: ClickHouseSettings, schema: Schema) -> TapeClickHouseClient:
    destination = tape_clickhouse(settings)
    client = destination.client(schema, destination.spec()._bind_dataset_name(RAW_DATABASE))
    return cast(TapeClickHouseClient, client)


def newest_state(
    database: PushDatabase, among: Collection[str] | None = None, excluding: Collection[str] = ()
) -> State | None:
    """The state that a run would resume from, of the finished packages in `among` (None: all) without `excluding`."""
    rows = database.rows(STATEMENTS["stored_states"], pipeline=PIPELINE_NAME)
    for (load_id,) in rows:
        if (among is None or load_id in among) and load_id not in excluding:
            [[text]] = database.rows(STATEMENTS["state"], pipeline=PIPELINE_NAME, load_id=load_id)
            return dict(decompress_state(text))
    return None


def exchange_name(state: State | None) -> str | None:
    """The exchange whose trades a state covers."""
    return _source(state).get("exchange") if state else None


def merge_states(one: State, other: State) -> State:
    """The union of two pipelines' states: time covered by either, instruments known to either."""
    resources: dict[str, Any] = {}
    sides = [_source(state).get("resources", {}) for state in (one, other)]
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
    source = {**_source(one), **_source(other), "resources": resources}
    newer = max(one, other, key=lambda state: state["_state_version"])
    return {**newer, "sources": {**newer["sources"], SCHEMA_NAME: source}}


def write_state(cloud: PushDatabase, state: State, schema: Schema) -> None:
    """Write the state as a load package that is newer than all others and has no data."""
    versioned = cast(TPipelineState, {**state, "_local": {}})
    bump_pipeline_state_version_if_modified(versioned)
    load_id = create_load_id()
    document = {**state_doc(versioned, load_id), "_dlt_id": uniq_id(10)}
    load = {
        "load_id": load_id,
        "schema_name": schema.name,
        "status": 0,
        "inserted_at": pendulum.now("UTC"),
        "schema_version_hash": schema.version_hash,
    }
    for table, row in ((STATE, document), (LOADS, load)):
        cloud.insert(table, row, token=f"push/{table}/{load_id}")


def _source(state: State) -> dict[str, Any]:
    return cast(dict[str, Any], state.get("sources", {}).get(SCHEMA_NAME, {}))

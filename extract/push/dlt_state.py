"""dlt's own tables on cloud: its tables are made as a run makes them, its cursor goes on where both sides end.

The cursor, which is the state in `_dlt_pipeline_state`, comes last: a run into cloud that finds it finds all that it
vouches for.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any

from dlt.common import pendulum
from dlt.common.schema import Schema
from dlt.common.storages.load_package import create_load_id
from dlt.common.utils import uniq_id
from dlt.common.versioned_state import decompress_state
from dlt.pipeline.state_sync import bump_pipeline_state_version_if_modified, state_doc

from extract.clickhouse.destination import tape_clickhouse
from extract.clickhouse.destination.job_client import TapeClickHouseClient
from extract.clickhouse.settings import RAW_DATABASE, ClickHouseSettings
from extract.deribit.instruments import united_known
from extract.errors import CannotTellError
from extract.pipeline.load import PIPELINE_NAME, unwrap_dlt_errors
from extract.push.database import PushDatabase
from extract.push.partitions import LOADS, STATE
from extract.sweep.state import StreamState

SCHEMA_NAME = "deribit"

State = dict[str, Any]
"""dlt's pipeline state, decompressed."""


def stored_schema(local: ClickHouseSettings) -> Schema:
    """The newest schema that local's runs have written down."""
    with unwrap_dlt_errors(), _client(local, Schema(SCHEMA_NAME)) as client:
        stored = client.get_stored_schema(SCHEMA_NAME)
    if stored is None:
        raise CannotTellError(
            "local has no schema of dlt's yet, so there is nothing to push; run: dlt pipeline run"
        )
    return Schema.from_stored_schema(json.loads(stored.schema))


def make_tables(cloud: ClickHouseSettings, schema: Schema, tables: Iterable[str]) -> None:
    """Database and tables on cloud as the destination makes them for a run, where they are not there yet."""
    with unwrap_dlt_errors(), _client(cloud, schema) as client:
        client.initialize_storage()
        client.update_stored_schema(
            only_tables=[name for name in tables if name in schema.tables], force=True
        )


def _client(settings: ClickHouseSettings, schema: Schema) -> TapeClickHouseClient:
    destination = tape_clickhouse(settings)
    return destination.client(schema, destination.spec()._bind_dataset_name(RAW_DATABASE))


def newest_state(
    side: PushDatabase, among: Collection[str] | None = None, but: Collection[str] = ()
) -> State | None:
    """The state that a run would go on from, of finished packages `among` these, or of all `but` those."""
    table = f"{RAW_DATABASE}.{STATE} where pipeline_name = {{pipeline:String}}"
    listed = f"""
        select toString(_dlt_load_id) as load_id from {table}
            and load_id in (select load_id from {RAW_DATABASE}.{LOADS} where status = 0)
        order by load_id desc"""
    loads = [load_id for (load_id,) in side.rows(listed, pipeline=PIPELINE_NAME)]
    newest = next((each for each in loads if (among is None or each in among) and each not in but), None)
    if newest is None:
        return None
    [(state, *_), *_] = side.rows(
        f"select state from {table} and _dlt_load_id = {{load_id:String}}",
        pipeline=PIPELINE_NAME,
        load_id=newest,
    )
    return decompress_state(state)  # type: ignore[return-value]


def exchange_of(state: State | None) -> str | None:
    """Which exchange's trades a state vouches for."""
    return _source(state).get("exchange") if state else None


def merge_states(one: State, other: State) -> State:
    """What two pipelines know together: time covered by either, instruments known to either."""
    resources: dict[str, Any] = {}
    sides = [_source(each).get("resources", {}) for each in (one, other)]
    for name in sorted(sides[0].keys() | sides[1].keys()):
        ours, theirs = (side.get(name, {}) for side in sides)
        resources[name] = {**ours, **theirs}
        if name == "trades":
            resources[name] = {
                stream: StreamState.from_json(ours.get(stream, {}))
                .united(StreamState.from_json(theirs.get(stream, {})))
                .to_json()
                for stream in sorted(ours.keys() | theirs.keys())
            }
        if name == "instruments":
            known = united_known(ours.get("known", {}), theirs.get("known", {}))
            resources[name]["known"] = dict(sorted(known.items()))
    source = {**_source(one), **_source(other), "resources": resources}
    newer = max(one, other, key=lambda each: each["_state_version"])
    return {**newer, "sources": {**newer["sources"], SCHEMA_NAME: source}}


def write_state(cloud: PushDatabase, state: State, schema: Schema) -> None:
    """As a load package of its own, the newest of all, with nothing in it but the state."""
    state = {**state, "_local": {}}
    bump_pipeline_state_version_if_modified(state)  # type: ignore[arg-type]
    load_id = create_load_id()
    doc = {**state_doc(state, load_id), "_dlt_id": uniq_id(10)}  # type: ignore[arg-type]
    _insert(cloud, STATE, doc)
    now = pendulum.now("UTC")
    _insert(
        cloud,
        LOADS,
        {
            "load_id": load_id,
            "schema_name": schema.name,
            "status": 0,
            "inserted_at": now,
            "schema_version_hash": schema.version_hash,
        },
    )


def _insert(side: PushDatabase, table: str, row: dict[str, Any]) -> None:
    side.insert(table, row, token=f"push/{table}/{row.get('_dlt_load_id') or row['load_id']}")


def _source(state: State) -> dict[str, Any]:
    return state.get("sources", {}).get(SCHEMA_NAME, {})

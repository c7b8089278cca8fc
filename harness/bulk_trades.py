"""Multiply the trades of a local database: the same trades months earlier and with other numbers."""

from __future__ import annotations

from clickhouse_connect.driver.client import Client


def multiply(local: Client, rows: int, package_rows: int = 40_000, months: int = 24) -> None:
    """Extend deribit_raw.trades to `rows` rows over at most `months`, in completed packages of `package_rows`."""
    existing = local.command("select count() from deribit_raw.trades")
    columns = [name for (name,) in local.query(_COLUMNS).result_rows]
    changed = {
        "trade_seq": f"toInt64(trade_seq + 1000000 * (1 + intDiv(n, {existing})))",
        "timestamp": f"timestamp - toIntervalDay(1 + intDiv(n, {existing}) % {months * 30})",
        "trade_id": "concat(trade_id, '-', toString(n))",
        "_dlt_load_id": f"concat('15', leftPad(toString(intDiv(n, {package_rows})), 8, '0'), '.5')",
    }
    selected = ", ".join(changed.get(name, name) for name in columns)
    local.command(
        f"""
        insert into deribit_raw.trades ({", ".join(columns)})
        select {selected}
        from (
            select base.*, number as n
            from numbers({rows - existing}) as turns
            inner join (select *, rowNumberInAllBlocks() as row from deribit_raw.trades) as base
                on turns.number % {existing} = base.row
        )""",
        settings={"max_partitions_per_insert_block": 1000},
    )
    local.command(
        """
        insert into deribit_raw._dlt_loads (load_id, schema_name, status, inserted_at, schema_version_hash)
        select distinct _dlt_load_id, 'deribit', 0, now64(6), '' from deribit_raw.trades
        where _dlt_load_id not in (select load_id from deribit_raw._dlt_loads)"""
    )


_COLUMNS = (
    "select name from system.columns where database = 'deribit_raw' and table = 'trades' order by position"
)

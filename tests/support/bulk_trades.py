"""A large local database, made of a small one: the same trades again, months earlier and under other numbers."""

from __future__ import annotations

from clickhouse_connect.driver.client import Client


def multiply(local: Client, wanted: int, package_rows: int = 40_000, months: int = 24) -> None:
    """Brings deribit_raw.trades to `wanted` rows over `months` at most, in finished packages of `package_rows`."""
    have = local.command("select count() from deribit_raw.trades")
    columns = [name for (name,) in local.query(_COLUMNS).result_rows]
    changed = {
        "trade_seq": f"toInt64(trade_seq + 1000000 * (1 + intDiv(n, {have})))",
        "timestamp": f"timestamp - toIntervalDay(1 + intDiv(n, {have}) % {months * 30})",
        "trade_id": "concat(trade_id, '-', toString(n))",
        "_dlt_load_id": f"concat('15', leftPad(toString(intDiv(n, {package_rows})), 8, '0'), '.5')",
    }
    picked = ", ".join(changed.get(name, name) for name in columns)
    local.command(
        f"""
        insert into deribit_raw.trades ({", ".join(columns)})
        select {picked}
        from (
            select base.*, number as n
            from numbers({wanted - have}) as turns
            inner join (select *, rowNumberInAllBlocks() as row from deribit_raw.trades) as base
                on turns.number % {have} = base.row
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

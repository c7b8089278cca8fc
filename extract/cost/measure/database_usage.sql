-- Measurements of a database for `tape cost plan`.

-- name: stored_bytes
-- One row per table of both databases, dlt's own as one: bytes of its active parts.
select
    database || '.' || if(startsWith(table, '_dlt_'), '_dlt', table) as name,
    sum(bytes_on_disk) as bytes
from system.parts
where active and database in ('deribit_raw', 'deribit')
group by name
order by bytes desc

-- name: processor_time
-- Trades loaded, and processor seconds of loads and of models. Models are written from raw tables, so a statement that
-- loads trades names the raw database alone.
select
    sumIf(written_rows, tables = ['deribit_raw.trades']) as trades,
    sumIf(ProfileEvents['OSCPUVirtualTimeMicroseconds'], databases = ['deribit_raw']) / 1e6 as raw_s,
    sumIf(ProfileEvents['OSCPUVirtualTimeMicroseconds'], has(databases, 'deribit')) / 1e6 as model_s
from system.query_log
where type = 'QueryFinish' and query_kind = 'Insert'

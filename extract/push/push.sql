-- Statements of `tape push` on either database. Those on the rows of a partition are in partitions.py and reconcile.py.

-- name: columns
select table, name, type from system.columns where database = 'deribit_raw' order by table, position

-- name: running_inserts
select count() from system.processes where startsWith(query_id, {prefix:String})

-- name: finished_loads
select load_id from <finished_loads>

-- name: rows_by_month
select toYYYYMM(timestamp) as month, toString(_dlt_load_id) as load_id, count()
from deribit_raw.trades
group by month, load_id
order by month, load_id

-- name: has_retention_drops
select count() from system.tables where database = 'deribit' and name = 'retention_drops'

-- name: dropped_months
-- Months that were dropped from this database's table of trades, not from one that was replaced since.
select distinct month
from deribit.retention_drops
where table_id in (select uuid from system.tables where database = 'deribit_raw' and name = 'trades')

-- name: stored_states
-- Finished load packages with a state, the newest first.
select toString(_dlt_load_id) as load_id
from deribit_raw._dlt_pipeline_state
where
    pipeline_name = {pipeline:String}
    and load_id in (select load_id from <finished_loads>)
order by load_id desc

-- name: state
select state
from deribit_raw._dlt_pipeline_state
where pipeline_name = {pipeline:String} and _dlt_load_id = {load_id:String}

-- Statements of `tape export`. `<relation>` is a table or view, `<condition>` the filters, `<keys>` the expressions that name a folder.

-- name: tables
select name from system.tables where database = 'deribit'

-- name: columns
select name, type from system.columns where concat(database, '.', table) = {table:String} order by position

-- name: currencies
-- Currencies of the streams, and underlying coins, of all traded instruments.
select distinct arrayJoin([toString(currency), toString(ifNull(underlying, currency))]) as currency
from deribit.instrument_ends

-- name: stored_months
-- Months (YYYYMM) of the partitions of a stored table.
select distinct toUInt32(_partition_id) as month from <relation> order by month

-- name: dropped_months
-- Months that `tape retention` dropped from a table: their files are retained.
select distinct month
from deribit.retention_drops
where table_id in (select uuid from system.tables where concat(database, '.', name) = {table:String})

-- name: changed_months
-- Months with a version of a trade of a load package at or after a time in µs. A trade that moved to another month has left
-- a marked row in the old one.
select distinct toYYYYMM(timestamp) as month
from deribit.trade_versions
where version >= {since_us:Int64} * 4096

-- name: moved_trades
-- Whether a trade moved from one month to another since a time in µs.
select count() from deribit.trade_versions where is_moved and version >= {since_us:Int64} * 4096

-- name: loads_pending
-- Finished load packages that the models have not consumed.
select toString(load_id) as load_id
from <finished_loads>
where load_id not in (select load_id from deribit.consumed_loads)

-- name: load_packages
-- Number, first and newest id, and SHA-256 of the ids in order, one per line, of the finished load packages.
select
    count(),
    min(toString(load_id)),
    max(toString(load_id)),
    lower(hex(SHA256(arrayStringConcat(arraySort(groupArray(toString(load_id))), '\n'))))
from <finished_loads>

-- name: parts
-- One row per file: month, folders, number of rows, first and last value of the leading sort column, and a digest that changes with
-- any row.
select
    <month> as month_of_rows,
    [<keys>]::Array(String) as folders,
    count() as row_count,
    toString(min(<leading>)) as first_value,
    toString(max(<leading>)) as last_value,
    toString(groupBitXor(cityHash64(tuple(<version>)))) as digest
from <relation>
where <condition>
group by month_of_rows, folders
order by month_of_rows, folders

-- name: rows
select <columns>
from <relation>
where <condition>
order by <sort>

-- name: tardis_rows
-- Trades in the columns of tardis.dev: times in µs, the side of the taker, amounts as the exchange sent them.
with selected as (
    select * from <relation>
    where <condition>
)

select
    {exchange:String} as exchange,
    selected.instrument_name as symbol,
    toUnixTimestamp64Micro(toDateTime64(selected.timestamp, 6, 'UTC')) as `timestamp`,
    toUnixTimestamp64Micro(toDateTime64(selected.timestamp, 6, 'UTC')) as local_timestamp,
    selected.trade_id as id,
    selected.direction as side,
    selected.price as price,
    selected.amount as amount
from selected
order by <sort>

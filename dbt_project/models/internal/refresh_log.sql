-- One row per portion of load packages whose trades were inserted. Candles are versioned by the number of rows, which
-- only grows and is read before a candle is computed: of two computations, the one that may have seen more trades wins.
{{ config(materialized='refreshed_table', full_refresh=false) }}

select
    now64(3, 'UTC') as refreshed_at,
    {{ refreshed_loads() }} as loads

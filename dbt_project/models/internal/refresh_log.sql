-- One row per portion of load packages and table of which all rows were inserted that the next one is computed from. The
-- number of rows is the version of what is computed: of two computations, the one that may have seen more rows wins.
{{ config(materialized='refreshed_table', full_refresh=false) }}

select
    now64(3, 'UTC') as refreshed_at,
    {{ refreshed_loads() }} as loads

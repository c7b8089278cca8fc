-- One row per portion of load packages and table that others are computed from, when all of its rows are inserted. The
-- number of rows is the version of what is computed: of two computations, the one that may have seen more wins.
{{ config(materialized='refreshed_table', full_refresh=false, mend='mend_refresh_log') }}
{{ built_after('verified_months') -}}

select
    now64(3, 'UTC') as refreshed_at,
    {{ refreshed_loads() }} as loads

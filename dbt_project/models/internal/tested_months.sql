-- One row per model, month and comparison of its rows since which the data tests of a `dbt build` have passed.
-- dbt skips this model if one of them fails, because everything that they depend on is built before it.
{{ config(materialized='incremental', incremental_strategy='append', full_refresh=false) }}
{{ built_after('verified_months', 'retention_drops', 'consumed_loads', 'refresh_plan', 'trades', 'instruments') -}}
{{ built_after('ohlcv_1m', 'ohlcv_15m', 'ohlcv_1h', 'ohlcv_4h', 'ohlcv_1d', 'ohlcv_1w', 'ohlcv_1mo') -}}
{{ built_after('expiry_hours_versions') -}}

select
    verified.model as model,
    verified.month as month,
    max(verified.verified_at) as tested_at
from {{ ref('verified_months') }} as verified
where
    {{ are_soundness_tests_selected() }}
    and {{ was_compared_before_tests() }}
    {% if is_incremental() -%}
        and (verified.model, verified.month, verified.verified_at) not in (
            select
                tested.model,
                tested.month,
                tested.tested_at
            from {{ this }} as tested
        )
    {%- endif %}
group by model, month

-- One row per trade that was odd when its month was last compared with the raw trades. Read through `odd_trades`.
{{ config(materialized='incremental', incremental_strategy='append') }}
{{ built_after('verified_months') -}}
with

final as (
    select
        instrument_name,
        trade_seq
    from {{ ref('trades') }}
    where
        {{ oddity_of_trade() }} is not null
        {% if is_incremental() -%}
            and toYYYYMM(timestamp) in ({{ compared_months('trade_versions') }})
        {%- endif %}
)

select * from final

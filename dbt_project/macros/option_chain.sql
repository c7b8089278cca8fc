{# Parameters of `option_chain_at`. Unit tests override these macros; sqlfluff renders them without dbt and cannot parse a parameter. #}
{% macro chain_underlying() -%} {{ '{underlying:String}' if execute else "''" }} {%- endmacro %}

{% macro chain_time() -%} {{ "{at:DateTime64(3, 'UTC')}" if execute else "now64(3, 'UTC')" }} {%- endmacro %}

{# Columns that identify an option, of its trades. #}
{% macro option_terms(trades) -%}
    {{ trades }}.instrument_name as instrument_name,
    toLowCardinality(assumeNotNull({{ trades }}.underlying)) as underlying,
    toLowCardinality(assumeNotNull({{ trades }}.settlement_currency)) as settlement_currency,
    assumeNotNull({{ trades }}.expiry) as expiry,
    assumeNotNull({{ trades }}.strike) as strike,
    toLowCardinality(assumeNotNull({{ trades }}.option_type)) as option_type
{%- endmacro %}

{# Aggregate: the last trade as a tuple (time, price, iv, index price). #}
{% macro last_option_trade(trades) -%}
    argMax(
        tuple({{ trades }}.timestamp, {{ trades }}.price, {{ trades }}.iv, {{ trades }}.index_price),
        {{ trade_place(trades) }}
    )
{%- endmacro %}

{# Predicate: the trade of an option has its terms and is before its expiry. #}
{% macro is_before_expiry(trades) -%}
    {{ trades }}.option_type is not null and {{ trades }}.strike is not null and {{ trades }}.timestamp < {{ trades }}.expiry
{%- endmacro %}

{#
  CTE `final`: the columns of `option_chain_1h`, of rows with the terms of an option, its `last_trade`, `bucket_at` and `hour_end`. `forwards`
  is a CTE with the rows of `forwards_1h` that are needed, by default all.
#}
{% macro option_chain(hours, forwards=none) %}
{{ with_forwards(
    hours, 'hour_end',
    ['instrument_name', 'bucket_at', 'strike', 'option_type', 'last_trade', 'hour_end'], 'last_trade.4',
    moves_with_index=false, forwards=forwards
) }},

priced_hours as (
    select
        *,
        last_trade.1 as traded_at,
        last_trade.2 as price,
        last_trade.3 as iv,
        dateDiff('millisecond', last_trade.1, hour_end) / 1000 as age_seconds
    from with_forward
),

{{ option_greeks('priced_hours', 'hour_end') }},

final as (
    select
        instrument_name,
        bucket_at,
        {{ expiry_key() }},
        strike,
        option_type,
        price,
        iv,
        traded_at,
        age_seconds,
        index_price,
        forward,
        forward_source,
        if(forward_source = 'index', age_seconds, forward_age_seconds) as forward_age_seconds,
        {{ greek_columns() }}
    from priced
)
{% endmacro %}

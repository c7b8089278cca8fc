{#
  Columns that identify the options and the future of one expiry, optionally of a table: inverse and linear ones are settled in different
  currencies.
#}
{% macro expiry_key(table=none) -%}
    {%- for column in ('underlying', 'settlement_currency', 'expiry') -%}
    {{ table ~ '.' ~ column ~ ' as ' if table }}{{ column }}{{ ', ' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}

{% macro expiry_hash() -%}
    cityHash64({{ expiry_key() }})
{%- endmacro %}

{# Predicate: the trade's price, index and expiry can be used for a forward. Block trades and legs of combos are not at market prices. #}
{% macro shows_market_price(trades) -%}
    {{ trades }}.is_book
    and {{ is_possible_price(trades ~ '.price') }} and {{ is_possible_price(trades ~ '.index_price') }}
    and {{ trades }}.expiry > {{ trades }}.timestamp
    and {{ trades }}.underlying is not null and {{ trades }}.settlement_currency is not null
{%- endmacro %}

{# Predicate: a trade of an option. The names select their rows by the sort key of the trades. #}
{% macro is_option_trade(trades) -%}
    {{ trades }}.kind = 'option'
    and {{ trades }}.instrument_name in (
        select ends.instrument_name from {{ ref('instrument_ends') }} as ends
        where ends.kind = 'option'
    )
{%- endmacro %}

{# Start of the hour of a time, UTC. #}
{% macro hour_of(time) -%}
    toDateTime(toStartOfHour({{ time }}), 'UTC')
{%- endmacro %}

{#
  Forward by put-call parity, from the last call and the last put of a strike, each a tuple (time, price, index price). In the currency of
  the strike. The prices of inverse options are in coin, and their difference is 1 - strike / forward.
#}
{% macro parity_forward(call, put, strike, is_inverse) -%}
    if(
        {{ is_inverse }},
        {{ strike }} / (1 - least({{ call }}.2 - {{ put }}.2, 0.999999)),
        {{ strike }} + {{ call }}.2 - {{ put }}.2
    )
{%- endmacro %}

{# Columns of the CTE `priced` that describe the option: moneyness, time to expiry, value and Greeks. #}
{% macro greek_columns() -%}
    days_to_expiry, moneyness, log_moneyness, option_value, model_price, delta, gamma, vega, theta, rho
{%- endmacro %}

{#
  Columns of the option trades in `trades` (time, strike, iv, option type, index price) and their `forward_ratio`: forward, moneyness, time
  to expiry and Greeks, as CTE `priced`. `at` is the time of the Greeks.
#}
{% macro option_greeks(rows, at) %}
years_left as (
    select
        * except (forward),
        -- The product of a ratio and an index may be a price that no market can have.
        {{ possible_price(rows ~ '.forward') }} as forward,
        {{ years_between(at, 'toDateTime64(expiry, 3, \'UTC\')') }} as years
    from {{ rows }}
),

volatilities as (
    select
        *,
        {{ black76_volatility('forward', 'strike', 'iv', 'years') }}
    from years_left
),

terms as (
    select
        *,
        {{ black76_terms('forward', 'strike') }}
    from volatilities
),

priced as (
    select
        *,
        {{ black76_greeks('forward', 'strike', 'iv', 'years', "(option_type = 'call')") }},
        if(settlement_currency = underlying, option_value / forward, option_value) as model_price,
        strike / nullIf(forward, 0) as moneyness,
        log(nullIf(greatest(moneyness, 0), 0)) as log_moneyness,
        max2(years, 0) * 365 as days_to_expiry
    from terms
)
{% endmacro %}

{#
  CTE `with_forward`: rows of `rows` with `columns`, the index price and the forward of their expiry at the time `at`: the newest one of
  `forwards_1h` that is not later, of a future or of put-call parity; the index itself where there is none, or only one older than
  `forward_max_age_hours`. If `index_price` is the index at that time, the forward moves with it. `forwards` is a relation with the rows of
  `forwards_1h` that are needed, by default all.
#}
{% macro with_forwards(rows, at, columns, index_price, moves_with_index=true, forwards=none) %}
with_forward as (
    select
        {{ expiry_key('options') }},
        {% for column in columns -%}
        options.{{ column }} as {{ column }},
        {% endfor -%}
        {{ possible_price('options.' ~ index_price) }} as index_price,
        (toUnixTimestamp64Milli(options.{{ at }}) - toUnixTimestamp64Milli(forwards.forward_at)) / 1000 as seconds_since_forward,
        forwards.forward > 0 and seconds_since_forward <= {{ var('forward_max_age_hours') }} * 3600 as has_forward,
        toLowCardinality(if(has_forward, forwards.forward_source, 'index')) as forward_source,
        if(has_forward, seconds_since_forward, 0) as forward_age_seconds,
        if(has_forward, {{ 'forwards.forward_ratio * index_price' if moves_with_index else 'forwards.forward' }}, index_price) as forward
    -- A join by one number takes a third of the time of one by three columns.
    from (select *, {{ expiry_hash() }} as expiry_hash from {{ rows }}) as options
    asof left join (
        select *, {{ expiry_hash() }} as expiry_hash from {{ forwards or ref('forwards_1h') }}
        where forward_source != 'index'
    ) as forwards
        on
            options.expiry_hash = forwards.expiry_hash
            and options.{{ at }} >= forwards.forward_at
)
{% endmacro %}

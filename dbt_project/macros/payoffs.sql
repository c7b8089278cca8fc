{#
  Payoffs at expiry and profits of positions, exact: decimals with 12 places, rounded once. Inverse options and futures pay coin, linear
  ones their quote currency.

    select {{ option_payoff('delivery_price', 'strike', 'option_type', 'is_inverse') }} as payoff
    select {{ position_payoff('kind', 'is_inverse', 'amount', 'entry_price', 'exit_price', 'strike', 'option_type') }} as profit

  A null argument gives null. So does a price of zero or less by which an inverse payoff would be divided.
#}

{# Intrinsic value of one option in the currency of the strike: USD for inverse options. #}
{% macro intrinsic_value(delivery_price, strike, option_type) -%}
    multiIf(
        {{ delivery_price }} is null or {{ strike }} is null or {{ option_type }} is null, null,
        ({{ option_type }} = 'call') = ({{ delivery_price }} > {{ strike }}),
        abs({{ to_exact_decimal(delivery_price) }} - {{ to_exact_decimal(strike) }}),
        toDecimal256(0, 12)
    )
{%- endmacro %}

{# A value divided by a price, with 24 places; null where no market can have the price. #}
{% macro per_price(value, price) -%}
    if(
        {{ is_possible_price(price) }},
        toDecimal256({{ value }}, 24) / {{ to_exact_decimal('if(' ~ is_possible_price(price) ~ ', ' ~ price ~ ', 1)') }},
        null
    )
{%- endmacro %}

{# Intrinsic value of one option in coin, with 24 places. #}
{% macro intrinsic_coin(delivery_price, strike, option_type) -%}
    {{ per_price(intrinsic_value(delivery_price, strike, option_type), delivery_price) }}
{%- endmacro %}

{# What one option pays at its expiry, in its settlement currency, with 24 places. #}
{% macro exact_option_payoff(delivery_price, strike, option_type, is_inverse) -%}
    if(
        {{ is_inverse }},
        {{ intrinsic_coin(delivery_price, strike, option_type) }},
        toDecimal256({{ intrinsic_value(delivery_price, strike, option_type) }}, 24)
    )
{%- endmacro %}

{# What one option pays at its expiry, in its settlement currency. #}
{% macro option_payoff(delivery_price, strike, option_type, is_inverse) -%}
    {{ round_amount(exact_option_payoff(delivery_price, strike, option_type, is_inverse)) }}
{%- endmacro %}

{#
  Profit of a position in the settlement currency, from its entry to `exit_price`, which for options is the delivery price. `amount` is
  in the exchange's unit and negative for a short position. Fees and funding are not included.
#}
{% macro position_payoff(kind, is_inverse, amount, entry_price, exit_price, strike='null', option_type='null') -%}
    {%- set size = to_exact_decimal(amount) -%}
    multiIf(
        {{ kind }} = 'option',
        {{ round_amount(
            '(' ~ exact_option_payoff(exit_price, strike, option_type, is_inverse)
            ~ ' - toDecimal256(' ~ to_exact_decimal(entry_price) ~ ', 24)) * ' ~ size
        ) }},
        {{ is_inverse }},
        {{ round_amount(per_price(size, entry_price) ~ ' - ' ~ per_price(size, exit_price)) }},
        {{ round_amount('(' ~ to_exact_decimal(exit_price) ~ ' - ' ~ to_exact_decimal(entry_price) ~ ') * ' ~ size) }}
    )
{%- endmacro %}

{# Name of the index that an instrument refers to: btc_usd, btc_usdc. Inverse options are quoted in the coin, but their index is in USD. #}
{% macro index_name_of(underlying, quote_currency) -%}
    lower(concat({{ underlying }}, '_', if({{ quote_currency }} = {{ underlying }}, 'USD', {{ quote_currency }})))
{%- endmacro %}

{#
  CTEs `expired` and `delivered`: expired instruments of a kind, and the delivery price of each, from the index, else from its own
  delivery in the settlements; null where neither is loaded.
#}
{% macro delivered_instruments(kind) %}
-- The index may have another name than the underlying has: that of MATIC became pol_usdc.
listed_indexes as (
    select
        listed.instrument_name as instrument_name,
        argMax(listed.price_index, toDecimal128OrZero(listed.load_id, 6)) as index_name
    from {{ ref('stg_deribit__instruments') }} as listed
    where {{ is_finished('listed.load_id', ref('stg_deribit__instruments')) }} and listed.price_index != ''
    group by instrument_name
),

expired as (
    select
        instruments.instrument_name as instrument_name,
        instruments.underlying as underlying,
        instruments.quote_currency as quote_currency,
        instruments.settlement_currency as settlement_currency,
        assumeNotNull(instruments.expires_at) as expires_at,
        instruments.strike as strike,
        instruments.option_type as option_type,
        coalesce(
            nullIf(listed_indexes.index_name, ''), {{ index_name_of('instruments.underlying', 'instruments.quote_currency') }}
        ) as index_name,
        toDate(assumeNotNull(instruments.expires_at)) as expires_on
    from {{ ref('instruments') }} as instruments
    left join listed_indexes on instruments.instrument_name = listed_indexes.instrument_name
    where instruments.kind = '{{ kind }}' and instruments.expires_at <= now64(3)
),

deliveries as (
    select
        settlements.instrument_name as instrument_name,
        argMax(settlements.index_price, settlements.timestamp) as settled_price
    from {{ ref('settlements') }} as settlements
    where settlements.type = 'delivery' and settlements.index_price > 0
    group by instrument_name
),

delivered as (
    select
        expired.instrument_name as instrument_name,
        expired.underlying as underlying,
        expired.quote_currency as quote_currency,
        expired.settlement_currency as settlement_currency,
        expired.expires_at as expires_at,
        expired.strike as strike,
        expired.option_type as option_type,
        expired.index_name as index_name,
        nullIf(prices.delivery_price, 0) as index_delivery_price,
        nullIf(deliveries.settled_price, 0) as settlement_price,
        coalesce(index_delivery_price, settlement_price) as delivery_price,
        multiIf(
            index_delivery_price is not null, 'delivery_price',
            settlement_price is not null, 'settlement',
            null
        ) as delivery_source
    from expired
    left join {{ ref('delivery_prices') }} as prices
        on expired.index_name = prices.index_name and expired.expires_on = prices.date
    left join deliveries on expired.instrument_name = deliveries.instrument_name
)
{% endmacro %}

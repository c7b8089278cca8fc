{#
  Candles are stored as differences from what is likely, which is exact and takes a fraction of the bytes. Most candles of a thin
  instrument are one trade: its price is open, high, low and close, and all of its volume was bought or sold.

  - A column that usually equals another one is null where it does: close where it is open, high where it is the greater of both.
  - `size` is the sum of the amounts, in dollars for inverse futures and in coin for all others. The other one of volume and notional is
    what `size` is worth at the open price, plus a remainder, which is 0 for a single trade.
#}

{# CTE `compact`: the stored form of the CTE `candles`. #}
{% macro compact_candles(level, candles) %}
sized as (
    select
        *,
        {{ is_inverse_future() }} as counts_dollars,
        if(counts_dollars, notional, volume) as size
    from {{ candles }}
),

compact as (
    select
        instrument_name,
        bucket_at,
        kind,
        underlying,
        open,
        {{ unless_equal('sized.high', 'greatest(sized.open, sized.close)') }} as high,
        {{ unless_equal('sized.low', 'least(sized.open, sized.close)') }} as low,
        {{ unless_equal('sized.close', 'sized.open') }} as close,
        size,
        if(counts_dollars, volume, notional) - {{ likely_value('size', 'open') }} as value_remainder,
        {{ unless_equal('sized.buy_volume', 'sized.volume') }} as buy_volume,
        {{ unless_equal('sized.block_volume', 'sized.volume') }} as block_volume,
        {{ unless_equal('sized.liquidation_volume', 'sized.volume') }} as liquidation_volume,
        trade_count,
        {{ decimal_places('sized.iv_open') }} as iv_open_places,
        {{ decimal_digits('sized.iv_open', 'iv_open_places') }} as iv_open_digits,
        {{ unless_equal('sized.iv_high', 'greatest(sized.iv_open, sized.iv_close)') }} as iv_high,
        {{ unless_equal('sized.iv_low', 'least(sized.iv_open, sized.iv_close)') }} as iv_low,
        {{ unless_equal('sized.iv_close', 'sized.iv_open') }} as iv_close,
        {{ decimal_places('sized.usd_rate') }} as usd_rate_places,
        {{ decimal_digits('sized.usd_rate', 'usd_rate_places') }} as usd_rate_digits,
        notional_usd - {{ likely_usd('notional', 'usd_rate') }} as usd_remainder,
        notional_usd_missing,
        {{ unless_equal('sized.book_open', 'if(book_trade_count = 0, sized.book_open, sized.open)') }} as book_open,
        {{ unless_equal('sized.book_high', 'if(book_trade_count = 0, sized.book_high, sized.high)') }} as book_high,
        {{ unless_equal('sized.book_low', 'if(book_trade_count = 0, sized.book_low, sized.low)') }} as book_low,
        {{ unless_equal('sized.book_close', 'if(book_trade_count = 0, sized.book_close, sized.close)') }} as book_close,
        {{ unless_equal('sized.book_volume', 'sized.volume') }} as book_volume,
        {{ unless_equal('sized.book_notional', 'sized.notional') }} as book_notional,
        toUInt64(trade_count - book_trade_count) as negotiated_count
        {%- if level == '1m' %},
        first_seq,
        last_seq
        {%- endif %}
    from sized
)
{% endmacro %}

{# CTE `candles`: the candles that the CTE `stored` has in compact form. #}
{% macro restored_candles(stored) %}
candles as (
    select
        instrument_name,
        bucket_at,
        kind,
        underlying,
        {{ is_inverse_future() }} as counts_dollars,
        open,
        ifNull(stored.close, stored.open) as close,
        ifNull(stored.high, greatest(stored.open, close)) as high,
        ifNull(stored.low, least(stored.open, close)) as low,
        value_remainder + {{ likely_value('size', 'stored.open') }} as value,
        if(counts_dollars, value, size) as volume,
        if(counts_dollars, size, value) as notional,
        ifNull(stored.buy_volume, volume) as buy_volume,
        volume - buy_volume as sell_volume,
        ifNull(stored.block_volume, volume) as block_volume,
        ifNull(stored.liquidation_volume, volume) as liquidation_volume,
        trade_count,
        {{ decimal_number('iv_open_digits', 'iv_open_places') }} as iv_open,
        ifNull(stored.iv_close, iv_open) as iv_close,
        ifNull(stored.iv_high, greatest(iv_open, iv_close)) as iv_high,
        ifNull(stored.iv_low, least(iv_open, iv_close)) as iv_low,
        {{ decimal_number('usd_rate_digits', 'usd_rate_places') }} as usd_rate,
        usd_remainder + {{ likely_usd('notional', 'usd_rate') }} as notional_usd,
        notional_usd_missing,
        ifNull(stored.book_open, stored.open) as book_open,
        ifNull(stored.book_high, high) as book_high,
        ifNull(stored.book_low, low) as book_low,
        ifNull(stored.book_close, close) as book_close,
        ifNull(stored.book_volume, volume) as book_volume,
        ifNull(stored.book_notional, notional) as book_notional,
        toUInt64(trade_count - negotiated_count) as book_trade_count
    from {{ stored }} as stored
)
{% endmacro %}

{# A value, or null where it equals another one. The inner `if` lets the value below the null be 0, which takes no space. #}
{% macro unless_equal(value, other) -%}
    if({{ value }} = {{ other }}, null, if({{ value }} = {{ other }}, 0, {{ value }}))
{%- endmacro %}

{#
  What a size is worth at a price: in coin if it is in dollars, and in the quote currency if it is in coin. Only a starting point for the
  remainder, so a float will do, and 0 where it would be too large.
#}
{% macro likely_value(size, price) -%}
    {{ nearest_decimal(
        'if(counts_dollars, toFloat64(' ~ size ~ ') / if(abs(' ~ price ~ ') < 1e-12, 1, ' ~ price ~ '), toFloat64(' ~ size ~ ') * ' ~ price ~ ')'
    ) }}
{%- endmacro %}

{# The same in dollars. #}
{% macro likely_usd(notional, usd_rate) -%}
    if({{ usd_rate }} = 1, {{ notional }}, {{ nearest_decimal('toFloat64(' ~ notional ~ ') * ifNull(' ~ usd_rate ~ ', 0)') }})
{%- endmacro %}

{# A float as a decimal. The conversion truncates, so a tenth of the last place is added. #}
{% macro nearest_decimal(float) -%}
    toDecimal128(if(abs({{ float }}) < 1e25, round({{ float }}, 12) + if({{ float }} < 0, -1e-13, 1e-13), 0), 12)
{%- endmacro %}

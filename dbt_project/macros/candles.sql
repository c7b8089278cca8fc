{#
  Candles of the stored levels are versions in a ReplacingMergeTree, read through a FINAL view. A refresh recomputes each bucket that
  the portion touches, from all of its trades, and appends the result. A bucket that lost its last trade is appended with no trades,
  and the view omits it. The other levels are views over a stored one.
#}

{% macro candle_table(level) -%} {{ return('ohlcv_' ~ level ~ '_versions') }} {%- endmacro %}

{# Start of the bucket of `level` that contains a time, in UTC. A Date for weeks and months. #}
{% macro bucket_of(level, time) -%}
    {{ var('candle_levels')[level].bucket | replace('{}', time) }}
{%- endmacro %}

{# The same as a time. With toDateTime instead of a cast, ClickHouse would read all months for a week or a month. #}
{% macro bucket_start(level, time) -%}
    cast({{ bucket_of(level, time) }} as DateTime('UTC'))
{%- endmacro %}

{# Buckets of `level` that the portion changes, some of them several times. #}
{% macro touched_buckets(level) %}
    select
        touched_minutes.instrument_name as instrument_name,
        {{ bucket_start(level, 'touched_minutes.bucket_at') }} as bucket_at
    from {{ ref('touched_minutes') }} as touched_minutes
    where touched_minutes.version = {{ touched_version() }}
{% endmacro %}

{# Predicate: the bucket of a row was touched. ClickHouse selects parts by the times in the pairs, and rows by the sort key. #}
{% macro is_touched(level, time) -%}
    (instrument_name, {{ bucket_of(level, time) }}) in (
        select touched.instrument_name, {{ bucket_of(level, 'touched.bucket_at') }} from touched
    )
{%- endmacro %}

{# One-minute candles that a portion changes. Trades are read by the ranges of numbers of the touched candles. #}
{% macro refreshed_minutes() %}
with

touched as (
    {{ touched_buckets('1m') }}
),

-- Also of other portions, which may be refreshed at this moment: their candles are not there yet.
ranges as (
    select instrument_name, first_seq, last_seq from {{ ref('touched_minutes') }}
    where {{ is_touched('1m', 'bucket_at') }}
    union all
    select instrument_name, first_seq, last_seq from {{ this_table() }}
    where trade_count > 0 and {{ is_touched('1m', 'bucket_at') }}
),

blocks as (
    select distinct instrument_name, {{ seq_blocks('first_seq', 'last_seq') }} as block from ranges
),

trades as (
    select * from {{ ref('trades') }}
    where {{ is_in_blocks() }} and {{ is_touched('1m', 'timestamp') }}
),

{{ minute_candles('trades') }},

{{ emptied_or_recomputed('1m') }}
{% endmacro %}

{# Candles of a coarser level that a portion changes, from the candles of `finer`. #}
{% macro refreshed_candles(level, finer) %}
with

touched as (
    {{ touched_buckets(level) }}
),

finer_candles as (
    select * from {{ ref('ohlcv_' ~ finer) }}
    where {{ is_touched(level, 'bucket_at') }}
),

{{ coarser_candles(level, 'finer_candles') }},

{{ emptied_or_recomputed(level) }}
{% endmacro %}

{# The touched buckets, with no trades where none is left; those of dropped months stay as they are. #}
{% macro emptied_or_recomputed(level) %}
{{ compact_candles(level, 'candles') }},

places as (
    select distinct touched.instrument_name as instrument_name, touched.bucket_at as bucket_at from touched
),

final as (
    select
        places.instrument_name as instrument_name,
        places.bucket_at as bucket_at,
        compact.* except (instrument_name, bucket_at),
        {{ refresh_version() }} as version
    from compact
    right join places on compact.instrument_name = places.instrument_name and compact.bucket_at = places.bucket_at
    where {{ is_month_open([candle_table(level), finer_table(level), 'trade_versions'], 'places.bucket_at') }}
)

select * from final
{% endmacro %}

{#
  Order of the trades of an instrument by time and number, as one integer (milliseconds × 2^63 + number), which argMin and argMax compare
  much faster than a tuple.
#}
{% macro trade_place(trades) -%}
    toInt128(toUnixTimestamp64Milli({{ trades }}.timestamp)) * 9223372036854775808 + {{ trades }}.trade_seq
{%- endmacro %}

{# CTE `candles`: one-minute candles of the trades in the CTE `rows`. #}
{% macro minute_candles(rows) %}
{%- set place = trade_place('trades') -%}
candles as (
    select
        trades.instrument_name as instrument_name,
        {{ bucket_start('1m', 'trades.timestamp') }} as bucket_at,
        toLowCardinality(argMin(trades.kind, {{ place }})) as kind,
        toLowCardinality(any(trades.underlying)) as underlying,
        argMin(trades.price, {{ place }}) as open,
        max(trades.price) as high,
        min(trades.price) as low,
        argMax(trades.price, {{ place }}) as close,
        sum({{ or_zero('trades.volume') }}) as volume,
        sum({{ or_zero('trades.notional') }}) as notional,
        sumIf({{ or_zero('trades.volume') }}, trades.direction = 'buy') as buy_volume,
        sumIf({{ or_zero('trades.volume') }}, trades.direction = 'sell') as sell_volume,
        sumIf({{ or_zero('trades.volume') }}, trades.is_block) as block_volume,
        sumIf({{ or_zero('trades.volume') }}, trades.is_liquidation) as liquidation_volume,
        count() as trade_count,
        argMin(trades.iv, {{ place }}) as iv_open,
        max(trades.iv) as iv_high,
        min(trades.iv) as iv_low,
        argMax(trades.iv, {{ place }}) as iv_close,
        if(countIf(trades.notional_usd is null) > 0, null, sum(trades.notional_usd)) as notional_usd,
        toLowCardinality(min(trades.notional_usd_missing)) as notional_usd_missing,
        argMin(trades.usd_rate, {{ place }}) as usd_rate,
        argMinIf(trades.price, {{ place }}, trades.is_book) as book_open,
        maxIf(trades.price, trades.is_book) as book_high,
        minIf(trades.price, trades.is_book) as book_low,
        argMaxIf(trades.price, {{ place }}, trades.is_book) as book_close,
        sumIf({{ or_zero('trades.volume') }}, trades.is_book) as book_volume,
        sumIf({{ or_zero('trades.notional') }}, trades.is_book) as book_notional,
        countIf(trades.is_book) as book_trade_count,
        min(trades.trade_seq) as first_seq,
        max(trades.trade_seq) as last_seq
    from {{ rows }} as trades
    group by instrument_name, bucket_at
)
{% endmacro %}

{# CTE `candles`: candles of `level` from the finer candles in the CTE `rows`. #}
{% macro coarser_candles(level, rows) %}
candles as (
    select
        finer.instrument_name as instrument_name,
        {{ bucket_start(level, 'finer.bucket_at') }} as bucket_at,
        toLowCardinality(argMin(finer.kind, finer.bucket_at)) as kind,
        toLowCardinality(any(finer.underlying)) as underlying,
        argMin(finer.open, finer.bucket_at) as open,
        max(finer.high) as high,
        min(finer.low) as low,
        argMax(finer.close, finer.bucket_at) as close,
        sum({{ or_zero('finer.volume') }}) as volume,
        sum({{ or_zero('finer.notional') }}) as notional,
        sum({{ or_zero('finer.buy_volume') }}) as buy_volume,
        sum({{ or_zero('finer.sell_volume') }}) as sell_volume,
        sum({{ or_zero('finer.block_volume') }}) as block_volume,
        sum({{ or_zero('finer.liquidation_volume') }}) as liquidation_volume,
        sum(finer.trade_count) as trade_count,
        argMin(finer.iv_open, finer.bucket_at) as iv_open,
        max(finer.iv_high) as iv_high,
        min(finer.iv_low) as iv_low,
        argMax(finer.iv_close, finer.bucket_at) as iv_close,
        if(countIf(finer.notional_usd is null) > 0, null, sum(finer.notional_usd)) as notional_usd,
        toLowCardinality(min(finer.notional_usd_missing)) as notional_usd_missing,
        argMin(finer.usd_rate, finer.bucket_at) as usd_rate,
        assumeNotNull(argMinIf(finer.book_open, finer.bucket_at, finer.book_trade_count > 0)) as book_open,
        assumeNotNull(maxIf(finer.book_high, finer.book_trade_count > 0)) as book_high,
        assumeNotNull(minIf(finer.book_low, finer.book_trade_count > 0)) as book_low,
        assumeNotNull(argMaxIf(finer.book_close, finer.bucket_at, finer.book_trade_count > 0)) as book_close,
        sum({{ or_zero('finer.book_volume') }}) as book_volume,
        sum({{ or_zero('finer.book_notional') }}) as book_notional,
        sum(finer.book_trade_count) as book_trade_count
    from {{ rows }} as finer
    group by instrument_name, bucket_at
)
{% endmacro %}

{# Newest candles of a stored level. #}
{% macro latest_candles(versions) %}
with

stored as (
    select * from {{ latest_versions(versions) }}
    where trade_count > 0
),

{{ restored_candles('stored') }},

{{ shown_candles() }}
{% endmacro %}

{# Candles of a level that is not stored. #}
{% macro combined_candles(level, finer) %}
with

finer_candles as (
    select * from {{ ref('ohlcv_' ~ finer) }}
),

{{ coarser_candles(level, 'finer_candles') }},

{{ shown_candles() }}
{% endmacro %}

{# A price of the order book, in a bucket without its trades null. #}
{% macro book_price(price) -%} if(book_trade_count = 0, null, {{ price }}) {%- endmacro %}

{% macro shown_candles() %}
final as (
    select
        instrument_name,
        bucket_at,
        kind,
        underlying,
        open,
        high,
        low,
        close,
        {% for amount in ('volume', 'notional') -%}
        if({{ is_inverse_combo() }}, null, candles.{{ amount }}) as {{ amount }},
        {% endfor -%}
        if(volume = 0, close, toFloat64(notional) / toFloat64(volume)) as vwap,
        {% for amount in ('buy_volume', 'sell_volume', 'block_volume', 'liquidation_volume') -%}
        if({{ is_inverse_combo() }}, null, candles.{{ amount }}) as {{ amount }},
        {% endfor -%}
        trade_count,
        iv_open,
        iv_high,
        iv_low,
        iv_close,
        notional_usd,
        notional_usd_missing,
        usd_rate,
        {{ book_price('candles.book_open') }} as book_open,
        {{ book_price('candles.book_high') }} as book_high,
        {{ book_price('candles.book_low') }} as book_low,
        {{ book_price('candles.book_close') }} as book_close,
        {% for amount in ('book_volume', 'book_notional') -%}
        if({{ is_inverse_combo() }}, null, candles.{{ amount }}) as {{ amount }},
        {% endfor -%}
        multiIf(
            book_trade_count = 0, null,
            book_volume = 0, candles.book_close,
            toFloat64(book_notional) / toFloat64(book_volume)
        ) as book_vwap,
        book_trade_count
    from candles
)

select * from final
{% endmacro %}

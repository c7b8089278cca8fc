{#
  Candles of one level are versions in a ReplacingMergeTree, read through a FINAL view. A run recomputes each bucket that the
  claimed load packages touch and appends the result; a bucket that lost its last trade is appended with no trades, and the view
  omits it. The version is the time of the claim, which only increases, so the last computation wins.
#}

{% macro candle_table(level) -%} {{ return('ohlcv_' ~ level ~ '_versions') }} {%- endmacro %}

{# Start of the bucket of `level` that contains a time, in UTC. A Date for weeks and months. #}
{% macro bucket_of(level, time) -%}
    {{ var('candle_levels')[level].bucket | replace('{}', time) }}
{%- endmacro %}

{% macro bucket_start(level, time) -%}
    toDateTime({{ bucket_of(level, time) }}, 'UTC')
{%- endmacro %}

{# Buckets with a trade of the load packages that `is_chosen` selects by load_id, and old buckets of restated trades. #}
{% macro touched_buckets(level, is_chosen) %}
    select distinct instrument_name, {{ bucket_start(level, 'timestamp') }} as bucket_at
    from (
        select instrument_name, timestamp from {{ ref('stg_deribit__trades') }}
        where {{ is_chosen }}
        union all
        select instrument_name, timestamp from {{ ref('trade_moves') }}
        where {{ is_chosen }}
    )
    where {{ is_month_open(level, 'bucket_at') }}
{% endmacro %}

{# Predicate: the bucket of a row was touched. The two separate sets allow index use by instrument and by time. #}
{% macro is_touched(level, rows, time_column) -%}
    {%- set time = rows ~ '.' ~ time_column -%}
    {{ rows }}.instrument_name in (select touched.instrument_name from touched)
    and {{ bucket_of(level, time) }} in (select {{ bucket_of(level, 'touched.bucket_at') }} from touched)
    and ({{ rows }}.instrument_name, {{ bucket_start(level, time) }}) in (
        select touched.instrument_name, touched.bucket_at from touched
    )
{%- endmacro %}

{#
  Candles of a level, computed from the candles of the level `finer`, or from trades, each of which counts as one candle. An
  incremental run returns the touched buckets only, with no trades where a bucket has lost its last one.
#}
{% macro candles(level, finer=none) %}
{{ require_complete_history(level) -}}
-- depends_on: {{ ref('stg_deribit__trades') }} {{ ref('trade_moves') }} {{ ref('load_ledger') }}
with

{% if is_incremental() %}
touched as (
    {{ touched_buckets(level, is_claimed('load_id', candle_table(level))) }}
),

{% endif %}
finer_candles as (
    {% if finer -%}
    select
        finer.*,
        finer.bucket_at as started_at,
        finer.bucket_at as place
    from {{ ref('ohlcv_' ~ finer) }} as finer
    {%- else -%}
    {{ trades_as_candles() }}
    {%- endif %}
    {% if is_incremental() %}
    where {{ is_touched(level, *(('finer', 'bucket_at') if finer else ('trades', 'timestamp'))) }}
    {% endif %}
),

candles as (
    select
        finer_candles.instrument_name as instrument_name,
        {{ bucket_start(level, 'finer_candles.started_at') }} as bucket_at,
        toLowCardinality(max(finer_candles.kind)) as kind,
        toLowCardinality(max(finer_candles.underlying)) as underlying,
        argMin(finer_candles.open, finer_candles.place) as open,
        max(finer_candles.high) as high,
        min(finer_candles.low) as low,
        argMax(finer_candles.close, finer_candles.place) as close,
        sum(finer_candles.volume) as volume,
        sum(finer_candles.notional) as notional,
        sum(finer_candles.buy_volume) as buy_volume,
        sum(finer_candles.sell_volume) as sell_volume,
        sum(finer_candles.block_volume) as block_volume,
        sum(finer_candles.liquidation_volume) as liquidation_volume,
        sum(finer_candles.trade_count) as trade_count,
        argMin(finer_candles.iv_open, finer_candles.place) as iv_open,
        max(finer_candles.iv_high) as iv_high,
        min(finer_candles.iv_low) as iv_low,
        argMax(finer_candles.iv_close, finer_candles.place) as iv_close
    from finer_candles
    group by instrument_name, bucket_at
),

final as (
    select
        {% set rows = 'touched' if is_incremental() else 'candles' -%}
        {{ rows }}.instrument_name as instrument_name,
        {{ rows }}.bucket_at as bucket_at,
        candles.kind as kind,
        candles.underlying as underlying,
        candles.open as open,
        candles.high as high,
        candles.low as low,
        candles.close as close,
        candles.volume as volume,
        candles.notional as notional,
        candles.buy_volume as buy_volume,
        candles.sell_volume as sell_volume,
        candles.block_volume as block_volume,
        candles.liquidation_volume as liquidation_volume,
        candles.trade_count as trade_count,
        candles.iv_open as iv_open,
        candles.iv_high as iv_high,
        candles.iv_low as iv_low,
        candles.iv_close as iv_close,
        {{ claimed_at(candle_table(level)) }} as built_at
    from {{ rows }}
    {% if is_incremental() -%}
    left join candles on touched.instrument_name = candles.instrument_name and touched.bucket_at = candles.bucket_at
    {%- endif %}
)

select * from final
{% endmacro %}

{% macro trades_as_candles() -%}
    select
        trades.instrument_name as instrument_name,
        trades.kind as kind,
        trades.underlying as underlying,
        trades.timestamp as started_at,
        (trades.timestamp, trades.trade_seq) as place,
        trades.price as open,
        trades.price as high,
        trades.price as low,
        trades.price as close,
        trades.volume as volume,
        trades.notional as notional,
        if(trades.direction = 'buy', trades.volume, 0) as buy_volume,
        if(trades.direction = 'sell', trades.volume, 0) as sell_volume,
        if(trades.is_block, trades.volume, 0) as block_volume,
        if(trades.is_liquidation, trades.volume, 0) as liquidation_volume,
        toUInt64(1) as trade_count,
        trades.iv as iv_open,
        trades.iv as iv_high,
        trades.iv as iv_low,
        trades.iv as iv_close
    from {{ ref('trades') }} as trades
{%- endmacro %}

{% macro latest_candles(versions) %}
with

latest as (
    select * from {{ latest_versions(versions) }}
),

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
        volume,
        notional,
        if(volume = 0, close, toFloat64(notional) / toFloat64(volume)) as vwap,
        buy_volume,
        sell_volume,
        block_volume,
        liquidation_volume,
        trade_count,
        iv_open,
        iv_high,
        iv_low,
        iv_close
    from latest
    where trade_count > 0
)

select * from final
{% endmacro %}

{#
  Candles of one level are versions in a ReplacingMergeTree, read through a FINAL view. A run recomputes the buckets that the
  claimed loads touched, whole, and appends them; a bucket that lost its last trade is appended empty, and the view leaves it out.
  The version is the time of the claim, which only grows, so the last computation wins in whatever order loads came.
#}

{% macro candle_table(level) -%} {{ return('ohlcv_' ~ level ~ '_versions') }} {%- endmacro %}

{# Start of the bucket of `level` that a time lies in: UTC, weeks from Monday. A Date for weeks and months. #}
{% macro bucket_of(level, time) -%}
    {%- set starts = {
        '1m': 'toStartOfMinute({})', '15m': 'toStartOfFifteenMinutes({})', '1h': 'toStartOfHour({})',
        '4h': 'toStartOfInterval({}, interval 4 hour)', '1d': 'toStartOfDay({})', '1w': 'toMonday({})', '1mo': 'toStartOfMonth({})',
    } -%}
    {{ starts[level].format(time) }}
{%- endmacro %}

{% macro bucket_start(level, time) -%}
    toDateTime({{ bucket_of(level, time) }}, 'UTC')
{%- endmacro %}

{# Buckets with a trade in a load package that `is_chosen` chooses by load_id, and those that a re-stated trade left. #}
{% macro touched_buckets(level, is_chosen) %}
    select distinct instrument_name, {{ bucket_start(level, 'timestamp') }} as bucket_at
    from (
        select instrument_name, timestamp from {{ ref('stg_deribit__trades') }}
        where {{ is_chosen }}
        union all
        select instrument_name, timestamp from {{ ref('trade_moves') }}
        where {{ is_chosen }}
    )
    where {{ is_open(level, 'bucket_at') }}
{% endmacro %}

{# Predicate: a row's bucket was touched. The two single sets let ClickHouse skip by instrument and by time. #}
{% macro is_touched(level, rows, time_column) -%}
    {%- set time = rows ~ '.' ~ time_column -%}
    {{ rows }}.instrument_name in (select touched.instrument_name from touched)
    and {{ bucket_of(level, time) }} in (select {{ bucket_of(level, 'touched.bucket_at') }} from touched)
    and ({{ rows }}.instrument_name, {{ bucket_start(level, time) }}) in (
        select touched.instrument_name, touched.bucket_at from touched
    )
{%- endmacro %}

{% macro candles_from_trades(level) %}
{{ require_whole(level) -}}
-- depends_on: {{ ref('stg_deribit__trades') }} {{ ref('trade_moves') }} {{ ref('load_ledger') }}
with

{% if is_incremental() %}
touched as (
    {{ touched_buckets(level, is_claimed('load_id', candle_table(level))) }}
),

{% endif %}
candles as (
    select
        trades.instrument_name as instrument_name,
        {{ bucket_start(level, 'trades.timestamp') }} as bucket_at,
        toLowCardinality(max(trades.kind)) as kind,
        toLowCardinality(max(trades.underlying)) as underlying,
        argMin(trades.price, (trades.timestamp, trades.trade_seq)) as open,
        max(trades.price) as high,
        min(trades.price) as low,
        argMax(trades.price, (trades.timestamp, trades.trade_seq)) as close,
        sum(trades.volume) as volume,
        sum(trades.notional) as notional,
        sumIf(trades.volume, trades.direction = 'buy') as buy_volume,
        sumIf(trades.volume, trades.direction = 'sell') as sell_volume,
        sumIf(trades.volume, trades.is_block) as block_volume,
        sumIf(trades.volume, trades.is_liquidation) as liquidation_volume,
        count() as trade_count,
        argMin(trades.iv, (trades.timestamp, trades.trade_seq)) as iv_open,
        max(trades.iv) as iv_high,
        min(trades.iv) as iv_low,
        argMax(trades.iv, (trades.timestamp, trades.trade_seq)) as iv_close
    from {{ ref('trades') }} as trades
    {% if is_incremental() %}
    where {{ is_touched(level, 'trades', 'timestamp') }}
    {% endif %}
    group by instrument_name, bucket_at
),

{{ candle_versions(level) }}
{% endmacro %}

{# Candles of a level from those of the level below, `finer`. #}
{% macro candles_from_candles(level, finer) %}
{{ require_whole(level) -}}
-- depends_on: {{ ref('stg_deribit__trades') }} {{ ref('trade_moves') }} {{ ref('load_ledger') }}
with

{% if is_incremental() %}
touched as (
    {{ touched_buckets(level, is_claimed('load_id', candle_table(level))) }}
),

{% endif %}
candles as (
    select
        finer.instrument_name as instrument_name,
        {{ bucket_start(level, 'finer.bucket_at') }} as bucket_at,
        toLowCardinality(max(finer.kind)) as kind,
        toLowCardinality(max(finer.underlying)) as underlying,
        argMin(finer.open, finer.bucket_at) as open,
        max(finer.high) as high,
        min(finer.low) as low,
        argMax(finer.close, finer.bucket_at) as close,
        sum(finer.volume) as volume,
        sum(finer.notional) as notional,
        sum(finer.buy_volume) as buy_volume,
        sum(finer.sell_volume) as sell_volume,
        sum(finer.block_volume) as block_volume,
        sum(finer.liquidation_volume) as liquidation_volume,
        sum(finer.trade_count) as trade_count,
        argMin(finer.iv_open, finer.bucket_at) as iv_open,
        max(finer.iv_high) as iv_high,
        min(finer.iv_low) as iv_low,
        argMax(finer.iv_close, finer.bucket_at) as iv_close
    from {{ ref('ohlcv_' ~ finer) }} as finer
    {% if is_incremental() %}
    where {{ is_touched(level, 'finer', 'bucket_at') }}
    {% endif %}
    group by instrument_name, bucket_at
),

{{ candle_versions(level) }}
{% endmacro %}

{# The computed candles and, on an incremental run, an empty one for each touched bucket that has no trades any more. #}
{% macro candle_versions(level) %}
final as (
    select
        {% if is_incremental() %}
        touched.instrument_name as instrument_name,
        touched.bucket_at as bucket_at,
        {% else %}
        candles.instrument_name as instrument_name,
        candles.bucket_at as bucket_at,
        {% endif %}
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
    from {% if is_incremental() %}touched
    left join candles on touched.instrument_name = candles.instrument_name and touched.bucket_at = candles.bucket_at
    {%- else %}candles{% endif %}
)

select * from final
{% endmacro %}

{% macro latest_candles(versions) %}
with

latest as (
    select * from {{ latest(versions) }}
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

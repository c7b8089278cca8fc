{#
  Forward and smile of an expiry in an hour, from the trades of its options and of its future in that hour and from nothing else. They are
  stored, because a question about volatility would otherwise read every option trade of its time. An observation is a tuple: time,
  price (or implied volatility), index price.
#}

{# Predicate: a trade that counts, of an option or a dated future. #}
{% macro is_of_expiry(trades) -%}
    {{ shows_market_price(trades) }}
    and (
        {{ trades }}.kind = 'future'
        or ({{ trades }}.kind = 'option' and {{ trades }}.option_type is not null and {{ trades }}.strike > 0)
    )
{%- endmacro %}

{#
  Aggregate: the last observation of `value` among the trades for which `condition` holds, as one integer, of which ClickHouse finds the
  greatest in a third of the time and memory that argMax of a tuple takes: place of the trade (128 bits), value (64 bits), index price (64 bits).
#}
{% macro last_observation(value, condition) -%}
    maxIf(
        bitShiftLeft(toUInt256({{ trade_place('trades') }}), 128)
        + bitShiftLeft(toUInt256(reinterpretAsUInt64(assumeNotNull({{ value }}))), 64)
        + reinterpretAsUInt64(assumeNotNull(trades.index_price)), {{ condition }}
    )
{%- endmacro %}

{# The observation in such an integer; zeros if there was none. A place is milliseconds × 2^63 + number. #}
{% macro observation(packed) -%}
    tuple(
        fromUnixTimestamp64Milli(toInt64(bitShiftRight({{ packed }}, 191)), 'UTC'),
        reinterpretAsFloat64(toUInt64(bitShiftRight({{ packed }}, 64))),
        reinterpretAsFloat64(toUInt64({{ packed }}))
    )
{%- endmacro %}

{# CTE `computed`: the columns of `expiry_hours_versions` without the version, of the trades in the CTE `rows`. #}
{% macro expiry_hours(rows) %}
{{ observed_expiries(rows) }},

{{ smile_points() }},

-- A put of delta -0.25 has the strike of the call of delta 0.75.
neighbours as (
    select
        *,
        {{ neighbours(['by_moneyness'] + ['by_call_delta'] * 4, [0, 0.9, 0.75, 0.25, 0.1]) }} as neighbours
    from points
),

interpolated as (
    select
        *,
        {{ interpolated('neighbours') }} as ivs
    from neighbours
),

computed as (
    select
        {{ expiry_key() }},
        bucket_at,
        observation.2 as forward,
        toLowCardinality(multiIf(has_future, 'future', has_pair, 'parity', 'index')) as forward_source,
        observation.1 as forward_at,
        observation.2 / observation.3 as forward_ratio,
        index_price,
        length(by_moneyness) as strikes,
        {% for name in ('atm_iv', 'put_10_iv', 'put_25_iv', 'call_25_iv', 'call_10_iv') -%}
        ivs[{{ loop.index }}] as {{ name }},
        {% endfor -%}
        trade_count
    from interpolated
)
{% endmacro %}

{# CTE `expiries`: observations of the future, of put-call parity and of the index, and the options of each strike. #}
{% macro observed_expiries(rows) %}
{%- set has_iv = 'trades.iv between ' ~ var('smile_min_iv') ~ ' and ' ~ var('smile_max_iv') -%}
-- The future has no strike.
packed_strikes as (
    select
        toLowCardinality(assumeNotNull(trades.underlying)) as underlying,
        toLowCardinality(assumeNotNull(trades.settlement_currency)) as settlement_currency,
        assumeNotNull(trades.expiry) as expiry,
        {{ hour_of('trades.timestamp') }} as bucket_at,
        if(trades.kind = 'future', 0, assumeNotNull(trades.strike)) as strike,
        {{ last_observation('trades.price', "trades.kind = 'future'") }} as last_future,
        {{ last_observation('trades.price', "trades.option_type = 'call'") }} as last_call,
        {{ last_observation('trades.price', "trades.option_type = 'put'") }} as last_put,
        {{ last_observation('trades.iv', "trades.option_type = 'call' and " ~ has_iv) }} as call_iv,
        {{ last_observation('trades.iv', "trades.option_type = 'put' and " ~ has_iv) }} as put_iv,
        count() as trade_count
    from {{ rows }} as trades
    where {{ is_of_expiry('trades') }}
    group by underlying, settlement_currency, expiry, bucket_at, strike
),

strikes as (
    select
        {{ expiry_key('packed') }},
        packed.bucket_at as bucket_at,
        packed.strike as strike,
        {% for name in ('last_future', 'last_call', 'last_put', 'call_iv', 'put_iv') -%}
        {{ observation('packed.' ~ name) }} as {{ name }},
        {% endfor -%}
        greatest(last_call, last_put) as last_option,
        packed.trade_count as trade_count
    from packed_strikes as packed
),

pairs as (
    select
        *,
        -- Seconds between the call and the put; the index moves in them.
        abs(dateDiff('millisecond', last_call.1, last_put.1)) / 1000 as seconds_apart,
        {{ parity_forward('last_call', 'last_put', 'strike', 'underlying = settlement_currency') }} as parity,
        last_call.2 > 0
        and last_put.2 > 0
        and seconds_apart <= {{ var('parity_max_seconds_apart') }}
        and parity / last_option.3 between 0.5 and 2 as is_pair
    from strikes
),

-- The pair whose trades are closest in time, and of those the one nearest to the money.
expiries as (
    select
        {{ expiry_key('pairs') }},
        pairs.bucket_at as bucket_at,
        max(pairs.last_future) as future,
        argMinIf(
            tuple(greatest(pairs.last_call.1, pairs.last_put.1), pairs.parity, pairs.last_option.3),
            (pairs.seconds_apart, abs(log(pairs.strike / pairs.last_option.3)), pairs.strike), pairs.is_pair
        ) as nearest_pair,
        max(greatest(
            tuple(pairs.last_future.1, pairs.last_future.3), tuple(pairs.last_option.1, pairs.last_option.3)
        )) as newest,
        groupArrayIf(
            tuple(pairs.strike, pairs.call_iv, pairs.put_iv), pairs.call_iv.3 > 0 or pairs.put_iv.3 > 0
        ) as smile,
        sum(pairs.trade_count) as trade_count
    from pairs
    group by {{ expiry_key() }}, bucket_at
)
{% endmacro %}

{# CTE `points`: the observation that is the forward, and the smile as points (log-moneyness or delta of the call, volatility). #}
{% macro smile_points() %}
observed as (
    select
        *,
        multiIf(
            future.2 > 0, future, nearest_pair.2 > 0, nearest_pair, tuple(newest.1, newest.2, newest.2)
        ) as observation
    from expiries
),

with_ratio as (
    select
        *,
        observation.2 / observation.3 as ratio,
        one.1 as strike,
        one.2 as call,
        one.3 as put
    from observed
    left array join smile as one
),

-- Of a call and a put with the same strike, the one out of the money counts, because its price is mostly volatility.
options as (
    select
        *,
        if(
            (call.3 > 0, strike >= call.3 * ratio, call.1) > (put.3 > 0, strike < put.3 * ratio, put.1), call, put
        ) as option
    from with_ratio
),

with_forward as (
    select
        *,
        option.2 as iv,
        option.3 * ratio as forward,
        {{ years_between('option.1', "toDateTime64(expiry, 3, 'UTC')") }} as years
    from options
),

terms as (
    select
        *,
        log(strike / forward) as log_moneyness,
        iv / 100 * sqrt(years) as total_volatility
    from with_forward
),

-- Black-76, as in `black76_terms`; here all of the inputs are positive.
deltas as (
    select
        *,
        {{ normal_cdf('total_volatility / 2 - log_moneyness / total_volatility') }} as call_delta
    from terms
),

points as (
    select
        {{ expiry_key('deltas') }},
        deltas.bucket_at as bucket_at,
        any(deltas.observation) as observation,
        any(deltas.future.2 > 0) as has_future,
        any(deltas.nearest_pair.2 > 0) as has_pair,
        any(deltas.newest.2) as index_price,
        any(deltas.trade_count) as trade_count,
        arraySort(groupArrayIf(tuple(deltas.log_moneyness, deltas.iv), deltas.strike > 0)) as by_moneyness,
        arraySort(groupArrayIf(tuple(deltas.call_delta, deltas.iv), deltas.strike > 0)) as by_call_delta
    from deltas
    group by {{ expiry_key() }}, bucket_at
)
{% endmacro %}

{#
  Expiries and hours of instruments and hours in the CTE `rows`; those of instruments without an expiry are left out. The name of an
  instrument is parsed once for all of its hours.
#}
{% macro expiry_hours_of(rows) %}
    select distinct
        toLowCardinality(assumeNotNull(underlying)) as underlying,
        toLowCardinality(assumeNotNull(settlement_currency)) as settlement_currency,
        assumeNotNull(expiry) as expiry,
        toDateTime(arrayJoin(hours), 'UTC') as bucket_at
    from (
        select
            hours,
            {{ instrument_parts() }}
        from (select instrument_name, groupUniqArray(bucket_at) as hours from {{ rows }} group by instrument_name)
    )
    where expiry > bucket_at
{% endmacro %}

{# The hours of expiries that a portion changes, computed from all of their trades. #}
{% macro refreshed_expiry_hours() %}
with

touched as (
    select distinct
        toLowCardinality(assumeNotNull(touched_minutes.underlying)) as underlying,
        toLowCardinality(assumeNotNull(touched_minutes.settlement_currency)) as settlement_currency,
        assumeNotNull(touched_minutes.expiry) as expiry,
        {{ hour_of('touched_minutes.bucket_at') }} as bucket_at
    from {{ ref('touched_minutes') }} as touched_minutes
    where touched_minutes.version = {{ touched_version() }} and touched_minutes.expiry > touched_minutes.bucket_at
),

names as (
    select instrument_name
    from {{ latest_versions(ref('instrument_ends')) }}
    where (underlying, expiry) in (select touched.underlying, touched.expiry from touched)
),

-- The trades of these hours, by the ranges of numbers of the one-minute candles.
blocks as (
    select distinct
        instrument_name,
        {{ seq_blocks('first_seq', 'last_seq') }} as block
    from {{ latest_versions(ref('ohlcv_1m_versions')) }}
    where
        trade_count > 0
        and instrument_name in (select names.instrument_name from names)
        and toStartOfHour(bucket_at) in (select touched.bucket_at from touched)
),

touched_trades as (
    select
        {% for column in ('kind', 'trade_seq', 'timestamp', 'price', 'iv', 'index_price', 'strike', 'option_type', 'is_book') -%}
        {{ column }},
        {% endfor -%}
        {{ expiry_key() }}
    from {{ ref('trades') }}
    where
        {{ is_in_blocks() }}
        and ({{ expiry_key() }}, {{ hour_of('timestamp') }}) in (
            select {% for column in ('underlying', 'settlement_currency', 'expiry', 'bucket_at') -%}
            touched.{{ column }}{{ ', ' if not loop.last }}
            {%- endfor %} from touched
        )
),

{{ expiry_hours('touched_trades') }},

final as (
    select
        {{ expiry_key('touched') }},
        touched.bucket_at as bucket_at,
        computed.* except ({{ expiry_key() }}, bucket_at),
        {{ refresh_version() }} as version
    from computed
    right join touched
        on
            computed.underlying = touched.underlying
            and computed.settlement_currency = touched.settlement_currency
            and computed.expiry = touched.expiry
            and computed.bucket_at = touched.bucket_at
    -- Without the minutes of a month its trades are not found here; a build computes such an hour from all of them.
    where {{ is_month_open(['trade_versions', 'ohlcv_1m_versions'], 'touched.bucket_at') }}
)

select * from final
{% endmacro %}

{# Predicates that divide the hours of some months into ranges of as many trades, for a column with a time. #}
{% macro hour_ranges(source, months) %}
    {%- set hours = range_starts(source, 'timestamp', months, 'toUnixTimestamp(toStartOfHour(timestamp))') -%}
    {%- set ranges = [] -%}
    {%- for hour in hours or [none] -%}
        {%- do ranges.append((hour if not loop.first else none, hours[loop.index] if not loop.last else none)) -%}
    {%- endfor -%}
    {{ return(ranges) }}
{% endmacro %}

{# Predicate: `time` is in a range of `hour_ranges`. #}
{% macro is_in_hours(time, range) -%}
    {{ time ~ ' >= toDateTime(' ~ range[0] ~ ", 'UTC')" if range[0] is not none else 'true' }}
    {{- ' and ' ~ time ~ ' < toDateTime(' ~ range[1] ~ ", 'UTC')" if range[1] is not none }}
{%- endmacro %}

{#
  Hash of a row of expiry hours. The last digits of a logarithm may depend on the processor, so volatilities are compared to four decimals of
  a percent.
#}
{% macro expiry_hour_hash(own) -%}
    sipHash128(tuple(
        {%- for column in declared_node(own.identifier).columns if column != 'version' -%}
        {{ 'round(' ~ column ~ ', 4)' if column.endswith('_iv') else column }}{{ ', ' if not loop.last }}
        {%- endfor -%}
    ))
{%- endmacro %}

{# CTEs as those of `candle_differences`, for the expiries of some months and a range of hours. #}
{% macro expiry_hour_differences(own, months, range, kept=[]) %}
{%- set hash = expiry_hour_hash(own) -%}
source_rows as (
    select * from {{ ref('trades') }}
    where toYYYYMM(timestamp) in {{ months }} and {{ is_in_hours('timestamp', range) }}
),

{{ expiry_hours('source_rows') }},

stored as (
    select * from {{ own }} final
    where toYYYYMM(bucket_at) in {{ months }} and {{ is_in_hours('bucket_at', range) }}
),

recomputed as (
    select {{ compared_columns(own) }} from computed
),

differing as (
    select * from recomputed
    where {{ hash }} not in (select {{ hash }} from stored)
),

emptied as (
    select {{ expiry_key() }}, bucket_at from stored
    where trade_count > 0 and {{ is_not_kept(kept) }} and ({{ expiry_key() }}, bucket_at) not in (
        select {{ expiry_key('trades') }}, {{ hour_of('trades.timestamp') }}
        from source_rows as trades
        where {{ is_of_expiry('trades') }}
    )
)
{% endmacro %}

{# The macro that the config `mend` of `expiry_hours_versions` names. #}
{% macro mend_expiry_hours() %}
    {%- set source = ref('trade_versions') -%}
    {%- do require_closed_months(this, source) -%}
    {%- set kept = months_to_keep(source) -%}
    {%- for months, states in changed_months(this, source) -%}
        {%- for range in hour_ranges(source, months) -%}
            {%- set differences = expiry_hour_differences(this, months, range, kept) -%}
            {%- do replace_differing(differences, expiry_key() ~ ', bucket_at', months, is_in_hours('bucket_at', range), 'hours') -%}
        {%- endfor -%}
        {%- do record_verified(this, source, states) -%}
    {%- endfor -%}
{% endmacro %}

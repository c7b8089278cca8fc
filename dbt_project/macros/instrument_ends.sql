{# CTE `touched`: the instruments of some rows. ClickHouse evaluates a scalar once, and any other CTE wherever it is named. #}
{% macro touched_instruments(rows, where) -%}
touched as (
    select arrayJoin((select groupUniqArray(instrument_name) from {{ rows }} where {{ where }})) as instrument_name
)
{%- endmacro %}

{#
  First and last trade of the instruments in the CTE `touched`. They are looked up through the first and last month, hour, then minute,
  so that few candles and trades are read, however many an instrument has. `own` is the table with the ends so far.
#}
{% macro instrument_ends(own=none) %}
{%- set is_last_known = 'previous.is_last_dropped and (previous.last_at, previous.last_trade.1) > (ends.last_at, ends.last_trade.1)' -%}
-- A late trade may belong to a dropped month, whose other trades are known from here only.
previous as (
    select
        instrument_name,
        first_at,
        last_at,
        tuple(trade_seq, price, mark_price, index_price, iv) as last_trade,
        not ({{ is_month_open(['trade_versions'], 'first_at') }}) as is_first_dropped,
        not ({{ is_month_open(['trade_versions'], 'last_at') }}) as is_last_dropped
    from {{ latest_versions(own or this) }}
    where instrument_name in (select touched.instrument_name from touched)
),

{{ first_and_last_hours() }},

{{ first_and_last_trades() }},

-- `tape retention` drops trades before candles: then the first trade is known from before, or only its hour.
first_hours as (
    select
        hours.instrument_name as instrument_name,
        hours.first_hour as first_hour
    from hours
    where (select count() from {{ ref('retention_drops') }}) > 0
),

final as (
    select
        ends.instrument_name as instrument_name,
        toLowCardinality(ends.currency) as currency,
        toLowCardinality(ends.kind) as kind,
        toLowCardinality(ends.underlying) as underlying,
        ends.expiry as expiry,
        multiIf(
            previous.is_first_dropped and previous.first_at < ends.first_at, previous.first_at,
            first_hours.instrument_name = '' or toStartOfHour(ends.first_at) <= first_hours.first_hour, ends.first_at,
            toStartOfHour(previous.first_at) = first_hours.first_hour, previous.first_at,
            toDateTime64(first_hours.first_hour, 3, 'UTC')
        ) as first_at,
        if({{ is_last_known }}, previous.last_at, ends.last_at) as last_at,
        {% for column in ('trade_seq', 'price', 'mark_price', 'index_price', 'iv') -%}
        if({{ is_last_known }}, previous.last_trade, ends.last_trade).{{ loop.index }} as {{ column }}
        {{- ',' if not loop.last }}
        {% endfor -%}
    from ends
    left join first_hours on ends.instrument_name = first_hours.instrument_name
    left join previous on ends.instrument_name = previous.instrument_name
)
{% endmacro %}

{# CTE `ends`: first and last trade of the instruments, in the minutes of the CTE `hours` that have their first and last candle. #}
{% macro first_and_last_trades() %}
minutes as (
    select
        instrument_name,
        arrayJoin([
            argMin((bucket_at, first_seq, last_seq), bucket_at),
            argMax((bucket_at, first_seq, last_seq), bucket_at)
        ]) as minute
    from {{ latest_versions(ref('ohlcv_1m_versions')) }}
    where
        trade_count > 0
        and (instrument_name, toStartOfHour(bucket_at)) in (
            select hours.instrument_name, arrayJoin([hours.first_hour, hours.last_hour]) from hours
        )
    group by instrument_name
),

blocks as (
    select distinct
        instrument_name,
        toYYYYMM(minute.1) as month,
        {{ seq_blocks('minute.2', 'minute.3') }} as block
    from minutes
),

-- Of the trades in these blocks the first and the last are those of the instrument.
ends as (
    select
        trades.instrument_name as instrument_name,
        any(trades.currency) as currency,
        argMax(trades.kind, {{ trade_place('trades') }}) as kind,
        any(trades.underlying) as underlying,
        any(trades.expiry) as expiry,
        min(trades.timestamp) as first_at,
        max(trades.timestamp) as last_at,
        -- A tuple preserves nulls, which argMax itself would skip.
        argMax(
            tuple(trades.trade_seq, trades.price, trades.mark_price, trades.index_price, trades.iv),
            {{ trade_place('trades') }}
        ) as last_trade
    from {{ ref('trades') }} as trades
    where {{ is_in_blocks('toYYYYMM(timestamp)') }}
    group by instrument_name
)
{% endmacro %}

{#
  CTE `hours`: first and last hour with trades of the instruments in the CTE `touched`; the CTE `previous` has their ends so far. All hours
  of an instrument are read only if its first or last month has none, or one that lost its last trade: a trade has moved away, or the
  candles of the month are dropped, lost or not computed yet.
#}
{% macro first_and_last_hours() %}
months as (
    select
        instrument_name,
        arrayJoin([min(any_month), max(any_month)]) as month
    from (
        select
            loaded.instrument_name as instrument_name,
            arrayJoin(groupUniqArrayMerge(loaded.months)) as any_month
        from {{ ref('loaded_seqs') }} as loaded
        where loaded.instrument_name in (select touched.instrument_name from touched)
        group by instrument_name
        union all
        select
            instrument_name,
            toYYYYMM(arrayJoin([first_at, last_at])) as any_month
        from previous
    )
    group by instrument_name
),

outer_hours as (
    select
        instrument_name,
        toYYYYMM(bucket_at) as month,
        min(bucket_at) as first_hour,
        max(bucket_at) as last_hour
    from {{ ref('ohlcv_1h_versions') }}
    where (instrument_name, toYYYYMM(bucket_at)) in (select months.instrument_name, months.month from months)
    group by instrument_name, month
    having min(trade_count) > 0
),

-- Two reads, because ClickHouse reads everything for a disjunction of the two conditions.
hours as (
    select
        instrument_name,
        min(hour) as first_hour,
        max(hour) as last_hour
    from (
        select
            instrument_name,
            arrayJoin([first_hour, last_hour]) as hour
        from outer_hours
        union all
        select
            instrument_name,
            bucket_at as hour
        from {{ latest_versions(ref('ohlcv_1h_versions')) }}
        where
            trade_count > 0
            and instrument_name in (
                select months.instrument_name from months
                where (months.instrument_name, months.month) not in (
                    select outer_hours.instrument_name, outer_hours.month from outer_hours
                )
            )
    )
    group by instrument_name
)
{% endmacro %}

{% macro mend_instrument_ends() %}
    {%- set hourly = ref('ohlcv_1h_versions') -%}
    {%- do require_known_ends() -%}
    {%- do remove_invented_instruments() if var('audit', false) -%}
    {%- for months, states in changed_months(this, hourly) -%}
        {%- for range in instrument_ranges(hourly, 'bucket_at', months) -%}
            {%- set version = commit_refresh() -%}
            {%- do insert_instrument_ends('toYYYYMM(bucket_at) in ' ~ months ~ ' and ' ~ range, version) -%}
            {%- if remove_invented_versions(range, version) -%}
                {%- do insert_instrument_ends(range, version) -%}
            {%- endif -%}
        {%- endfor -%}
        {%- do record_verified(this, hourly, states) -%}
    {%- endfor -%}
{% endmacro %}

{#
  Refuse to go on if the table lost instruments that were traded in months that `tape retention` dropped: their first and last trades are known
  from here only.
#}
{% macro require_known_ends() %}
    {%- set months = dropped_months(['trade_versions', 'ohlcv_1m_versions', 'ohlcv_1h_versions']) -%}
    {%- if months and not is_loss_accepted() and has_lost_rows(this, never_compared='true') -%}
        {%- set lost = column_of(
            'select uniqExact(instrument_name) from ' ~ declared_relation('loaded_seqs')
            ~ ' where instrument_name not in (select instrument_name from ' ~ this ~ ') and instrument_name in (select instrument_name from '
            ~ declared_relation('loaded_seqs') ~ ' group by instrument_name having hasAny(groupUniqArrayMerge(months), ' ~ months ~ '::Array(UInt32)))'
        )[0] -%}
        {%- if lost -%}
            {%- do raise_lost_rows(this, 'the first and last trades of ' ~ lost ~ ' instruments') -%}
        {%- endif -%}
    {%- endif -%}
{% endmacro %}

{# Instruments of the table `own`, for which `where` holds, that have neither hourly candles nor, if these were dropped, numbers of trades. #}
{% macro invented_instruments(own, where) %}
    select distinct instrument_name from {{ own }}
    where
        {{ where }}
        and instrument_name not in (select instrument_name from {{ ref('ohlcv_1h_versions') }} where trade_count > 0)
        and instrument_name not in (select instrument_name from {{ ref('loaded_seqs') }})
{% endmacro %}

{# Remove them. A refresh inserts numbers and candles first, so the second look finds those of an instrument that it just added. #}
{% macro remove_invented_instruments() %}
    {%- set names = ['true'] -%}
    {%- for _ in (1, 2) -%}
        {%- set invented = 'select toString(groupArray(instrument_name)) from (' ~ invented_instruments(this, names | last) ~ ' limit 1000)' -%}
        {%- do names.append('instrument_name in ' ~ column_of(invented)[0]) -%}
    {%- endfor -%}
    {%- if names | last != 'instrument_name in []' -%}
        {%- do run_statement('delete from ' ~ this ~ ' where ' ~ names | last) -%}
        {%- do log(this.identifier ~ ': removed rows where ' ~ names | last ~ ', which has no trades', info=true) -%}
        {%- do remove_invented_instruments() -%}
    {%- endif -%}
{% endmacro %}

{# CTEs for the instruments with hourly candles for which `where` holds: `final` as computed, and `differing` those stored otherwise. #}
{% macro differing_ends(own, where) %}
{{ touched_instruments(ref('ohlcv_1h_versions'), where) }},

{{ instrument_ends(own) }},

differing as (
    select * from final
    where sipHash128(tuple(final.*)) not in (
        select sipHash128(tuple(stored.* except (version))) from {{ own }} as stored final
        where stored.instrument_name in (select touched.instrument_name from touched)
    )
)
{% endmacro %}

{% macro insert_instrument_ends(where, version) %}
    {%- call statement('mend') -%}
        insert into {{ this }} settings insert_deduplicate = 0
        with {{ differing_ends(this, where) }}
        select *, {{ version }} as version from differing
    {%- endcall -%}
{% endmacro %}

{#
  Up to 100 instruments whose first or last trade is stored otherwise than computed, or which have none, in an explicit `dbt test`. Instruments
  of packages that are being loaded are left out.
#}
{% macro wrong_ends(own) %}
    {%- set wrong = [] -%}
    {%- if execute and flags.WHICH == 'test' -%}
        {%- set hourly = ref('ohlcv_1h_versions') -%}
        {%- for months, _ in changed_months(own, hourly, every=true) if wrong | length < 100 -%}
            {%- for range in instrument_ranges(hourly, 'bucket_at', months) -%}
                {%- set query -%}
                    with

                    {{ load_bounds() }},

                    {{ differing_ends(own, 'toYYYYMM(bucket_at) in ' ~ months ~ ' and ' ~ range) }}

                    select instrument_name from differing
                    where instrument_name not in (select unsettled.instrument_name from ({{ unsettled_buckets('1h') }}) as unsettled)
                    limit 100
                {%- endset -%}
                {%- do wrong.extend(column_of(query)) -%}
            {%- endfor -%}
        {%- endfor -%}
        {%- do wrong.extend(column_of(invented_instruments(own, 'true') ~ ' limit 100')) -%}
    {%- endif -%}
    {{ return(wrong | unique | list) }}
{% endmacro %}

{# Ranges of numbers that were dropped, from `first` to before `next`, divided at each chunk; a `part` has some five million numbers. #}
{% macro dropped_seqs(dropped) %}
    select
        *,
        intDiv(sum(next - first) over (order by instrument_name, first), {{ 10 * mended_rows() }}) as part
    from (
        select
            instrument_name,
            arrayJoin(range({{ seq_chunk('toUInt64(first_seq)') }}, {{ seq_chunk('toUInt64(last_seq)') }} + 1)) as chunk,
            greatest(toUInt64(first_seq), chunk * {{ seqs_per_chunk() }}) as first,
            least(toUInt64(last_seq) + 1, (chunk + 1) * {{ seqs_per_chunk() }}) as next
        from {{ dropped }}
    )
{% endmacro %}

{#
  If `loaded_seqs` lost rows, or in an audit: add again the numbers of trades in months that were dropped. `trade_versions` does not have them;
  raw does, or the ranges of them that `tape retention` recorded when it dropped raw, without their months.
#}
{% macro restore_dropped_seqs(own) %}
    {%- set months = dropped_months(['trade_versions', 'deribit_raw.trades']) -%}
    {%- if months and (var('audit', false) or has_lost_rows(own, never_compared='true')) -%}
        {%- call statement('mend') -%}
            insert into {{ own }} settings insert_deduplicate = 0
            select instrument_name, {{ seq_bitmaps() }}
            from {{ ref('stg_deribit__trade_times') }}
            where toYYYYMM(timestamp) in {{ months }} and load_id in (select loads.load_id from {{ ref('stg_deribit__loads') }} as loads)
            group by instrument_name, chunk
        {%- endcall -%}
        {%- set dropped = source('deribit_raw', 'dropped_trades') -%}
        {%- if adapter.get_relation(none, dropped.schema, dropped.identifier) -%}
            {%- for part in column_of('select distinct part from (' ~ dropped_seqs(dropped) ~ ') order by part') -%}
                {%- call statement('mend') -%}
                    insert into {{ own }} settings insert_deduplicate = 0
                    select
                        instrument_name,
                        chunk,
                        bitmapBuild(range(first, next)) as seqs,
                        bitmapBuild(range(first + 1, next + 1)) as followers,
                        arrayReduce('groupUniqArrayState', {{ months }}::Array(UInt32)) as months
                    from ({{ dropped_seqs(dropped) }})
                    where part = {{ part }}
                {%- endcall -%}
            {%- endfor -%}
        {%- endif -%}
    {%- endif -%}
{% endmacro %}

{# Add the numbers of trades that `loaded_seqs` lacks. #}
{% macro mend_loaded_seqs() %}
    {%- set own, trade_versions = declared_relation('loaded_seqs'), declared_relation('trade_versions') -%}
    {%- do restore_dropped_seqs(own) if load_relation(own) -%}
    {%- for months, states in changed_months(own, trade_versions) if load_relation(own) and load_relation(trade_versions) -%}
        {%- call statement('mend') -%}
            insert into {{ own }}
            with

            stored as (
                select
                    instrument_name,
                    {{ seq_bitmaps() }},
                    groupUniqArray(toYYYYMM(timestamp)) as month_list
                from {{ trade_versions }}
                where toYYYYMM(timestamp) in {{ months }} and not is_moved
                group by instrument_name, chunk
            ),

            listed as (
                select
                    instrument_name,
                    chunk,
                    groupBitmapMergeState(seqs) as seqs,
                    groupBitmapMergeState(followers) as followers,
                    groupUniqArrayMerge(months) as months
                from {{ own }}
                where (instrument_name, chunk) in (select instrument_name, chunk from stored)
                group by instrument_name, chunk
            )

            select stored.* except (month_list) from stored
            left join listed on stored.instrument_name = listed.instrument_name and stored.chunk = listed.chunk
            where
                not hasAll(listed.months, stored.month_list)
                or bitmapAndnotCardinality(stored.seqs, listed.seqs) > 0
                or bitmapAndnotCardinality(stored.followers, listed.followers) > 0
        {%- endcall -%}
        {%- do record_verified(own, trade_versions, states) -%}
    {%- endfor -%}
{% endmacro %}

{#
  CTE `expected`: rows of `loaded_seqs` for the instruments and numbers for which `where` holds. The trades of raw are among them, because
  a refresh that runs at the same time adds numbers before trades.
#}
{% macro expected_seqs(trade_versions, where) %}
numbers as (
    select instrument_name, trade_seq, timestamp from {{ trade_versions }} where not is_moved and {{ where }}
    union all
    select instrument_name, trade_seq, timestamp from {{ ref('stg_deribit__trade_times') }}
    where {{ where }} and load_id in (select loads.load_id from {{ ref('stg_deribit__loads') }} as loads)
),

expected as (
    select
        instrument_name,
        {{ seq_bitmaps() }}
    from numbers
    group by instrument_name, chunk
)
{% endmacro %}

{# As `doubtful_versions`: the next chunks with numbers of no trade, unless they have trades of months that were dropped. #}
{% macro wrong_chunks(own, trade_versions, where, after) %}
    with

    {{ expected_seqs(trade_versions, where) }},

    listed as (
        select
            instrument_name,
            chunk,
            groupBitmapMergeState(seqs) as seqs,
            groupBitmapMergeState(followers) as followers
        from {{ own }}
        where {{ where }}
        group by instrument_name, chunk
        having not hasAny(groupUniqArrayMerge(months), {{ dropped_months([trade_versions, source('deribit_raw', 'trades')]) }}::Array(UInt32))
    )

    select toString(groupArray(place)), toString(max(place))
    from (
        select (listed.instrument_name, listed.chunk) as place
        from listed
        left join expected on listed.instrument_name = expected.instrument_name and listed.chunk = expected.chunk
        where
            (
                bitmapAndnotCardinality(listed.seqs, expected.seqs) > 0
                or bitmapAndnotCardinality(listed.followers, expected.followers) > 0
            ) {{ 'and place > ' ~ after if after }}
        order by place
        limit 1000
    )
    having count() > 0
    settings join_use_nulls = 0
{% endmacro %}

{# With `audit`, or if rows of `loaded_seqs` were updated or lost: replace the chunks that have numbers of no trade. #}
{% macro replace_wrong_chunks() %}
    {%- set own, trade_versions = declared_relation('loaded_seqs'), declared_relation('trade_versions') -%}
    {%- if load_relation(own) and load_relation(trade_versions) and (var('audit', false) or has_lost_rows(own, never_compared="splitByChar(' ', state)[3] not in ('', '0')")) -%}
        {%- set months = column_of(
            'select toString(groupArray(month)) from (' ~ month_states(source('deribit_raw', 'trades')) ~ ')'
        )[0] -%}
        {#- Few ranges, because raw is not sorted by instrument and each reads all of it; bitmaps of 50 million numbers are small. -#}
        {%- for range in instrument_ranges(ref('stg_deribit__trade_times'), 'timestamp', months, 100 * mended_rows()) -%}
            {%- do replace_wrong_chunks_of(own, trade_versions, range) -%}
        {%- endfor -%}
    {%- endif -%}
{% endmacro %}

{% macro replace_wrong_chunks_of(own, trade_versions, where) %}
    {%- set progress = namespace(after='', done=false) -%}
    {%- for _ in range(100000) if not progress.done -%}
        {%- set page = run_query(wrong_chunks(own, trade_versions, where, progress.after)).rows -%}
        {%- set progress.done = not page -%}
        {%- for chunks, last in page -%}
            {%- set progress.after = last -%}
            {%- do run_statement('delete from ' ~ own ~ ' where (instrument_name, chunk) in ' ~ chunks) -%}
            {%- call statement('mend') -%}
                insert into {{ own }} settings insert_deduplicate = 0
                with {{ expected_seqs(trade_versions, '(instrument_name, ' ~ seq_chunk('trade_seq') ~ ') in ' ~ chunks) }}
                select * from expected
            {%- endcall -%}
            {%- do log(own.identifier ~ ': numbers of no trade are removed from chunks of ' ~ chunks, info=true) -%}
        {%- endfor -%}
    {%- endfor -%}
{% endmacro %}

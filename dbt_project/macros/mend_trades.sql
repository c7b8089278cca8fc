{#
  What building `consumed_loads` does: load what is pending, and again what was lost. Only tables of this target are written to: with
  `--defer --favor-state`, `ref` would name those of another environment.
#}
{% macro mend_trades() %}
    {%- do mend_loaded_seqs() -%} {# first, because a load package looks up there which trades it restates #}
    {%- do refresh_all(pending_loads(this)) -%}
    {%- do mend_trade_versions() -%}
    {%- do mend_loaded_seqs() -%}
{% endmacro %}

{#
  Load the packages again whose trades `trade_versions` lacks; with `audit`, also those with newer versions of trades or with other values.
  Values are compared in an ordinary build, too, if rows of these months were updated.
#}
{% macro mend_trade_versions() %}
    {%- set own = declared_relation('trade_versions') -%}
    {%- for months, states in changed_months(own, source('deribit_raw', 'trades')) if load_relation(own) -%}
        {%- do refresh_all(loads_with_lost_trades(own, months)) -%}
        {%- for range in instrument_ranges(own, 'timestamp', months) if var('audit', false) -%}
            {%- do refresh_all(loads_with_lost_versions(own, months, range)) -%}
        {%- endfor -%}
        {%- if var('audit', false) or are_updated(own, months) -%}
            {%- do mend_values(own, months) -%}
        {%- endif -%}
        {%- do mark_moved_rows(own, months) if load_relation(declared_relation('loaded_seqs')) -%}
        {%- do record_verified(own, source('deribit_raw', 'trades'), states) -%}
    {%- endfor -%}
{% endmacro %}

{# Refresh by portions of the packages with trades in some months, if a stored trade has another value than the package. #}
{% macro mend_values(trade_versions, months) %}
    {%- set progress = namespace(after='') -%}
    {%- for _ in range(100000) if progress.after is not none -%}
        {%- set portions = run_query(
            'select toString(loads), arrayMax(loads) from (' ~ portions_of(consumed_loads_of(months, progress.after)) ~ ')'
        ).rows -%}
        {%- for loads, _ in portions -%}
            {%- if column_of(other_values(trade_versions, months, loads))[0] -%}
                {%- do refresh_portion(loads) -%}
            {%- endif -%}
        {%- endfor -%}
        {%- set progress.after = (portions | last)[1] if portions else none -%}
    {%- endfor -%}
{% endmacro %}

{# Refresh by the load packages that a query selects, a thousand at a time, until it selects none, or the same again. #}
{% macro refresh_all(selected_loads) %}
    {%- set progress = namespace(portions=none) -%}
    {%- for _ in range(100000) if progress.portions != [] -%}
        {%- set portions = portions_as_text(selected_loads) -%}
        {%- set progress.portions = portions if portions != progress.portions else [] -%}
        {%- for loads in progress.portions -%}
            {%- do refresh_portion(loads) -%}
        {%- endfor -%}
    {%- endfor -%}
{% endmacro %}

{#
  Do with some load packages what `refresh` in `extract/clickhouse/refresh.py` does: run each step whose view exists. Before the first
  build of the candles theirs do not.
#}
{% macro refresh_portion(loads) %}
    {%- set values = {'loads': loads} -%}
    {%- set views = column_of("select concat(database, '.', name) from system.tables where engine = 'View'") -%}
    {%- for step in var('refresh_steps') -%}
        {%- set table = declared_relation(step.table) -%}
        {%- set view = step_view(step) -%}
        {%- if view in views -%}
            {%- set arguments = [] -%}
            {%- for name in step.get('parameters', []) -%} {%- do arguments.append(name ~ ' = ' ~ values[name]) -%} {%- endfor -%}
            {%- do run_statement(
                'insert into ' ~ table ~ ' settings insert_deduplicate = 0 select * from ' ~ view ~ ('(' ~ arguments | join(', ') ~ ')' if arguments else '')
            ) -%}
        {%- endif -%}
        {%- if step.table == 'refresh_log' -%}
            {%- do values.update({'version': column_of('select count() from ' ~ table)[0]}) -%}
            {%- do values.setdefault('touched', values.version) -%}
        {%- endif -%}
    {%- endfor -%}
{% endmacro %}

{# The next portions of some load packages, each the text of an array in SQL. #}
{% macro portions_as_text(loads) -%}
    {{ return(column_of('select toString(loads) from (' ~ portions_of(loads) ~ ')')) }}
{%- endmacro %}

{# Finished load packages that are not consumed. #}
{% macro pending_loads(consumed_loads) %}
    select loads.load_id as load_id
    from {{ ref('stg_deribit__loads') }} as loads
    where loads.load_id not in (select consumed.load_id from {{ consumed_loads }} as consumed)
{% endmacro %}

{# Consumed load packages with a trade in some months whose id is greater than `after`. #}
{% macro consumed_loads_of(months, after) %}
    select distinct load_id
    from {{ ref('stg_deribit__trade_times') }}
    where toYYYYMM(timestamp) in {{ months }} and load_id in (select load_id from {{ this }}) and load_id > '{{ after }}'
{% endmacro %}

{# Number of stored trades in some months that differ from the same version in some load packages. #}
{% macro other_values(trade_versions, months, loads) %}
    {%- set values = 'sipHash128(toString(tuple(' ~ declared_node(trade_versions.identifier).columns | join(', ') ~ ')))' -%}
    with

    computed as (
        select instrument_name, trade_seq, version, {{ values }} as digest
        from {{ refresh_view(trade_versions) }}(loads = {{ loads }})
        where toYYYYMM(timestamp) in {{ months }}
    ),

    stored as (
        select instrument_name, trade_seq, version, {{ values }} as digest
        from {{ trade_versions }} final
        where toYYYYMM(timestamp) in {{ months }} and not is_moved and (instrument_name, trade_seq) in (
            select instrument_name, trade_seq from {{ ref('stg_deribit__trade_times') }} where load_id in {{ loads }}
        )
    )

    select count()
    from computed
    inner join stored
        on computed.instrument_name = stored.instrument_name and computed.trade_seq = stored.trade_seq and computed.version = stored.version
    where computed.digest != stored.digest
{% endmacro %}

{# Whether rows of some months have been updated or deleted since they were last compared. #}
{% macro are_updated(own, months) -%}
    {%- set query -%}
        select count()
        from ({{ month_states(own) }}) as states
        inner join (
            select month, argMax(own_state, verified_at) as state
            from {{ declared_relation('verified_months') }}
            where model = '{{ model_of(own) }}'
            group by month
        ) as verified on states.month = verified.month
        where states.month in {{ months }} and splitByChar(' ', states.state)[3] != splitByChar(' ', verified.state)[3]
    {%- endset -%}
    {{ return(column_of(query)[0] > 0) }}
{%- endmacro %}

{# The first thousand of some load packages, in portions of about a million trades. #}
{% macro portions_of(loads) %}
with

chosen as (
    select load_id from ({{ loads }})
    group by load_id
    order by load_id
    limit 1000
),

sizes as (
    select toString(trades._dlt_load_id) as load_id, count() as trades
    from {{ source('deribit_raw', 'trades') }} as trades
    where trades._dlt_load_id in (select chosen.load_id from chosen)
    group by load_id
),

numbered as (
    select
        chosen.load_id as load_id,
        intDiv(sum(sizes.trades) over (order by chosen.load_id), 1000000) as portion
    from chosen
    left join sizes on chosen.load_id = sizes.load_id
),

final as (
    select groupArray(numbered.load_id) as loads
    from numbered
    group by numbered.portion
    order by numbered.portion
)

select * from final
{% endmacro %}

{# Add the numbers of trades that `loaded_seqs` lacks. #}
{% macro mend_loaded_seqs() %}
    {%- set own, trade_versions = declared_relation('loaded_seqs'), declared_relation('trade_versions') -%}
    {%- for months, states in changed_months(own, trade_versions) if load_relation(own) and load_relation(trade_versions) -%}
        {%- call statement('mend') -%}
            insert into {{ own }}
            with

            stored as (
                select
                    instrument_name,
                    {{ seq_chunk('trade_seq') }} as chunk,
                    groupBitmapState(toUInt64(trade_seq)) as seqs,
                    groupBitmapState(toUInt64(trade_seq + 1)) as followers,
                    groupUniqArrayState(toYYYYMM(timestamp)) as months,
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
                    groupUniqArrayMerge(months) as months
                from {{ own }}
                where (instrument_name, chunk) in (select instrument_name, chunk from stored)
                group by instrument_name, chunk
            )

            select stored.* except (month_list) from stored
            left join listed on stored.instrument_name = listed.instrument_name and stored.chunk = listed.chunk
            where not hasAll(listed.months, stored.month_list) or bitmapAndnotCardinality(stored.seqs, listed.seqs) > 0
        {%- endcall -%}
        {%- do record_verified(own, trade_versions, states) -%}
    {%- endfor -%}
{% endmacro %}

{#
  Chunks of numbers, of the trades of some months and a range of instruments, in which `trade_versions` has a number in several months. Until
  they are merged, also those of a moved trade whose old row is marked.
#}
{% macro chunks_in_months(trade_versions, months, range) %}
    select instrument_name, chunk
    from (
        select
            instrument_name,
            {{ seq_chunk('trade_seq') }} as chunk,
            toYYYYMM(timestamp) as month,
            groupBitmapState(toUInt64(trade_seq)) as seqs
        from {{ trade_versions }}
        where not is_moved and (instrument_name, {{ seq_chunk('trade_seq') }}) in (
            select loaded.instrument_name, loaded.chunk from {{ declared_relation('loaded_seqs') }} as loaded
            where (loaded.instrument_name, loaded.chunk) in (
                select instrument_name, {{ seq_chunk('trade_seq') }} from {{ trade_versions }}
                where toYYYYMM(timestamp) in {{ months }} and {{ range }}
            )
            group by loaded.instrument_name, loaded.chunk
            having length(groupUniqArrayMerge(loaded.months)) > 1
        )
        group by instrument_name, chunk, month
    )
    group by instrument_name, chunk
    having sum(bitmapCardinality(seqs)) > groupBitmapMerge(seqs)
{% endmacro %}

{#
  Mark the rows that trades of some months left in others, as `refresh_moved_rows` does for moves that are known. A load that restated a
  trade while `loaded_seqs` lacked its number did not know that it moved.
#}
{% macro mark_moved_rows(own, months) %}
    {%- set repeated = column_of('select count() from (' ~ chunks_in_months(own, months, 'true') ~ ')')[0] -%}
    {%- for range in instrument_ranges(own, 'timestamp', months) if repeated -%}
        {%- call statement('mend') -%}
            insert into {{ own }} settings insert_deduplicate = 0
            with

            versions as (
                select * from {{ own }} final
                where (instrument_name, {{ seq_chunk('trade_seq') }}) in ({{ chunks_in_months(own, months, range) }})
            ),

            newest as (
                select instrument_name, trade_seq, max((version, toYYYYMM(timestamp))) as newest
                from versions
                group by instrument_name, trade_seq
                having min(toYYYYMM(timestamp)) != max(toYYYYMM(timestamp))
            )

            select versions.* except (is_moved, version), toUInt8(1) as is_moved, newest.newest.1 as version
            from versions
            inner join newest on versions.instrument_name = newest.instrument_name and versions.trade_seq = newest.trade_seq
            where toYYYYMM(versions.timestamp) != newest.newest.2
        {%- endcall -%}
    {%- endfor -%}
{% endmacro %}

{# Consumed load packages with a trade in some months of raw that `trade_versions` does not have there. #}
{% macro loads_with_lost_trades(trade_versions, months) %}
    with

    raw as (
        select instrument_name, toYYYYMM(timestamp) as month, groupBitmapState(toUInt64(trade_seq)) as seqs
        from {{ ref('stg_deribit__trade_times') }}
        where toYYYYMM(timestamp) in {{ months }} and load_id in (select load_id from {{ this }})
        group by instrument_name, month
    ),

    stored as (
        select instrument_name, toYYYYMM(timestamp) as month, groupBitmapState(toUInt64(trade_seq)) as seqs
        from {{ trade_versions }}
        where toYYYYMM(timestamp) in {{ months }}
        group by instrument_name, month
    ),

    lossy as (
        select raw.instrument_name as instrument_name from raw
        left join stored on raw.instrument_name = stored.instrument_name and raw.month = stored.month
        where bitmapAndnotCardinality(raw.seqs, stored.seqs) > 0
    )

    select distinct load_id
    from {{ ref('stg_deribit__trade_times') }}
    where
        toYYYYMM(timestamp) in {{ months }}
        and load_id in (select load_id from {{ this }})
        and instrument_name in (select lossy.instrument_name from lossy)
        and (instrument_name, trade_seq, toYYYYMM(timestamp)) not in (
            select instrument_name, trade_seq, toYYYYMM(timestamp) from {{ trade_versions }}
            where toYYYYMM(timestamp) in {{ months }} and instrument_name in (select lossy.instrument_name from lossy)
        )
{% endmacro %}

{# Consumed load packages with a newer version of a trade than `trade_versions` has, in some months and a range of instruments. #}
{% macro loads_with_lost_versions(trade_versions, months, range) %}
    with

    raw as (
        select
            instrument_name,
            trade_seq,
            toYYYYMM(timestamp) as month,
            max(({{ load_us('load_id') }}, load_id)) as newest
        from {{ ref('stg_deribit__trade_times') }}
        where toYYYYMM(timestamp) in {{ months }} and {{ range }} and load_id in (select load_id from {{ this }})
        group by instrument_name, trade_seq, month
    ),

    stored as (
        select instrument_name, trade_seq, toYYYYMM(timestamp) as month, intDiv(max(version), 4096) as load_us
        from {{ trade_versions }}
        where toYYYYMM(timestamp) in {{ months }} and {{ range }}
        group by instrument_name, trade_seq, month
    )

    select distinct raw.newest.2 as load_id
    from raw
    inner join stored
        on raw.instrument_name = stored.instrument_name and raw.trade_seq = stored.trade_seq and raw.month = stored.month
    where stored.load_us < raw.newest.1
{% endmacro %}

{#
  What building `consumed_loads` does: load what is pending, and again what was lost. Only tables of this target are written to: with
  `--defer --favor-state`, `ref` would name those of another environment.
#}
{% macro mend_trades() %}
    {%- do record_drops_again() -%}
    {%- do require_closed_months(declared_relation('trade_versions'), source('deribit_raw', 'trades')) -%}
    {%- set is_first = has_no_rows(declared_relation('trade_versions')) -%}
    {%- set replaced = replaced_months(declared_relation('trade_versions')) -%}
    {%- do replace_wrong_chunks() -%}
    {%- do mend_loaded_seqs() -%} {# first, because a load package looks up there which trades it restates #}
    {%- do mend_consumed_loads() -%}
    {%- do mend_trade_versions(replaced, is_first) -%}
    {%- do mend_loaded_seqs() -%}
{% endmacro %}

{# The same for a table that is built without `consumed_loads`, as with `--full-refresh --select trade_versions`. #}
{% macro mend_selected_trades() %}
    {%- set consumed_loads = declared_node('consumed_loads') -%}
    {%- if consumed_loads.unique_id not in selected_resources and load_relation(declared_relation('consumed_loads')) -%}
        {%- do adapter.cache_added(this.incorporate(type='table')) -%} {#- dbt's cache does not have a table that was created just now -#}
        {%- do mend_trades() -%}
    {%- endif -%}
{% endmacro %}

{# What `mend_selected_trades` reads, for the models that name it. A unit test needs no rows of it. #}
{% macro mended_from_raw() -%}
    {{- built_after('stg_deribit__trade_times', 'stg_deribit__loads') -}}
    {%- if model.resource_type != 'unit_test' -%}
        {%- for name in ('trades', 'dropped_trades') -%} {%- do source('deribit_raw', name) -%} {%- endfor -%}
    {%- endif -%}
{%- endmacro %}

{# Load what is pending. The packages of long ago are compared if `consumed_loads` has lost some, in an audit, and once for every thousand packages. #}
{% macro mend_consumed_loads() %}
    {%- set own = declared_relation('consumed_loads') -%}
    {%- set is_kept = not has_lost_rows(own, never_compared='true') and not var('audit', false) and count_of_later_loads() < 1000 -%}
    {%- do refresh_all(pending_loads(own, consumed_until(declared_relation('verified_months'))) if is_kept else pending_loads(own)) -%}
    {%- do record_consumed_loads(own) if not is_kept -%}
{% endmacro %}

{#
  Load the packages again whose trades `trade_versions` lacks. With `audit`, versions and values are compared, too, and in an ordinary build
  if rows of these months were replaced or updated, have a version that no load package has yet, or if one that was inserted since the last
  comparison is not as raw has it. `is_first`: all rows were inserted just now, from raw.
#}
{% macro mend_trade_versions(replaced, is_first) %}
    {%- set own = declared_relation('trade_versions') -%}
    {%- for months, states in changed_months(own, source('deribit_raw', 'trades')) if load_relation(own) -%}
        {%- set is_thorough = var('audit', false) or are_updated(own, months, replaced) or has_later_versions(own, months)
            or (not is_first and has_wrong_new_rows(own, months)) -%}
        {%- do restore_lost_trades(own, months) -%}
        {%- do mend_versions(own, months) if is_thorough -%}
        {%- do record_verified(own, source('deribit_raw', 'trades'), states) -%}
    {%- endfor -%}
    {%- do mark_moved_rows(own) -%}
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
        {%- else -%}
            {%- do require_later_build(step, table) -%}
        {%- endif -%}
        {%- if step.table == 'refresh_log' -%}
            {%- do values.update({'version': column_of('select count() from ' ~ table)[0]}) -%}
            {%- do values.setdefault('touched', values.version) -%}
        {%- endif -%}
    {%- endfor -%}
{% endmacro %}

{# Refuse to go on without the view of a step if its table exists and this run does not build it: the packages would count as consumed. #}
{% macro require_later_build(step, table) %}
    {%- if load_relation(table) and declared_node(step.view or step.table).unique_id not in selected_resources -%}
        {{ exceptions.raise_compiler_error('There is no view ' ~ step_view(step) ~ ', which refreshes ' ~ table ~ '; run: dbt build') }}
    {%- endif -%}
{% endmacro %}

{# The next portions of some load packages, each the text of an array in SQL. #}
{% macro portions_as_text(loads) -%}
    {{ return(column_of('select toString(loads) from (' ~ portions_of(loads) ~ ')')) }}
{%- endmacro %}

{# Consumed load packages with a trade in some months whose id is greater than `after`. #}
{% macro consumed_loads_of(months, after) %}
    select distinct load_id
    from {{ ref('stg_deribit__trade_times') }}
    where toYYYYMM(timestamp) in {{ months }} and load_id in (select load_id from {{ declared_relation('consumed_loads') }}) and load_id > '{{ after }}'
{% endmacro %}

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

{#
  Per month of `trade_versions`: a text that changes when rows are lost, replaced or updated, and stays when rows are appended or merged.
#}
{% macro kept_states(own) %}
    select
        toUInt32OrZero(parts.partition) as month,
        concat({{ table_id(own) }}, ' ', toString(min(parts.min_block_number)), ' ', {{ newest_mutation() }}) as state
    from {{ filled_parts(own) }}
    group by month
{% endmacro %}

{#
  Whether trades may have unmarked rows in several months. A refresh marks the old row of each trade that it moves, as far as `loaded_seqs` has
  the trade's number; so this needs that `trade_versions` or `loaded_seqs` lost rows, or rows of them were updated, since all trades were
  searched for such rows.
#}
{% macro may_have_unmarked_moves(own, loaded_seqs) -%}
    {%- set query -%}
        with

        states as ({{ kept_states(own) }}),

        searched as ({{ last_states('moved_rows') }}),

        (
            select argMax(source_state, verified_at) from {{ declared_relation('verified_months') }} where model = 'moved_rows'
        ) as seqs_state

        select
            not startsWith(seqs_state, {{ table_id(loaded_seqs) }})
            or {{ has_changed(loaded_seqs, whole_state(loaded_seqs), 'seqs_state') }}
            or (select countIf(startsWith(own_state, {{ table_id(own) }})) from searched) = 0
            or (
                select count() from states
                inner join searched on states.month = searched.month
                where states.state != searched.own_state
            ) > 0
    {%- endset -%}
    {{ return(column_of(query)[0]) }}
{%- endmacro %}

{# Chunks of numbers, of a range of instruments, in which `trade_versions` has an unmarked row of a number in several months. #}
{% macro chunks_in_months(own, range) %}
    select instrument_name, {{ seq_chunk('trade_seq') }} as chunk
    from {{ own }} final
    where {{ range }}
    group by instrument_name, chunk
    having count() > groupBitmap(toUInt64(trade_seq))
{% endmacro %}

{#
  Mark the rows that trades left in other months, as `refresh_moved_rows` does for moves that are known: in an audit of all trades, and in an
  ordinary build if there may be some.
#}
{% macro mark_moved_rows(own) %}
    {%- set loaded_seqs = declared_relation('loaded_seqs') -%}
    {%- if load_relation(own) and load_relation(loaded_seqs) -%}
        {%- set is_searched = var('audit', false) or may_have_unmarked_moves(own, loaded_seqs) -%}
        {%- set months = column_of('select toString(groupArray(month)) from (' ~ kept_states(own) ~ ')')[0] if is_searched else '[]' -%}
        {%- set ranges = instrument_ranges(own, 'timestamp', months, 4 * mended_rows()) if months != '[]' else [] -%}
        {%- for range in ranges -%} {%- do mark_moved_rows_of(own, range) -%} {%- endfor -%}
        {%- call insert_verified() -%}
            select 'moved_rows', states.month, {{ whole_state(loaded_seqs) }}, states.state
            from ({{ kept_states(own) }}) as states
            {%- if not is_searched %}
            where states.month not in (select month from {{ declared_relation('verified_months') }} where model = 'moved_rows')
            {%- endif %}
        {%- endcall -%}
    {%- endif -%}
{% endmacro %}

{% macro mark_moved_rows_of(own, range) %}
    {%- call statement('mend') -%}
        insert into {{ own }} settings insert_deduplicate = 0
        with

        versions as (
            select * from {{ own }} final
            where (instrument_name, {{ seq_chunk('trade_seq') }}) in ({{ chunks_in_months(own, range) }})
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
{% endmacro %}

{# Load packages again whose trades `trade_versions` lacks in some months of raw. #}
{% macro restore_lost_trades(trade_versions, months) %}
    {%- set lossy = lossy_instruments(trade_versions, months) -%}
    {%- if column_of('select count() from (' ~ lossy ~ ')')[0] > 0 -%}
        {%- do refresh_all(loads_with_lost_trades(trade_versions, months, lossy)) -%}
    {%- endif -%}
{% endmacro %}

{# Instruments with a trade in some months of raw that `trade_versions` does not have there. #}
{% macro lossy_instruments(trade_versions, months) %}
    with

    raw as (
        select instrument_name, toYYYYMM(timestamp) as month, groupBitmapState(toUInt64(trade_seq)) as seqs
        from {{ ref('stg_deribit__trade_times') }}
        where toYYYYMM(timestamp) in {{ months }}
        group by instrument_name, month
    ),

    stored as (
        select instrument_name, toYYYYMM(timestamp) as month, groupBitmapState(toUInt64(trade_seq)) as seqs
        from {{ trade_versions }}
        where toYYYYMM(timestamp) in {{ months }}
        group by instrument_name, month
    )

    select raw.instrument_name as instrument_name from raw
    left join stored on raw.instrument_name = stored.instrument_name and raw.month = stored.month
    where bitmapAndnotCardinality(raw.seqs, stored.seqs) > 0
{% endmacro %}

{# Consumed load packages with trades that `trade_versions` lacks, of the instruments that the query `lossy` selects. #}
{% macro loads_with_lost_trades(trade_versions, months, lossy) %}
    with

    lossy as (
        {{ lossy }}
    ),

    -- Load packages with missing trades, consumed or not; only these few are looked up in `consumed_loads`.
    lost as (
        select distinct load_id
        from {{ ref('stg_deribit__trade_times') }}
        where
            toYYYYMM(timestamp) in {{ months }}
            and instrument_name in (select lossy.instrument_name from lossy)
            and (instrument_name, trade_seq, toYYYYMM(timestamp)) not in (
                select instrument_name, trade_seq, toYYYYMM(timestamp) from {{ trade_versions }}
                where toYYYYMM(timestamp) in {{ months }} and instrument_name in (select lossy.instrument_name from lossy)
            )
    )

    select distinct consumed.load_id as load_id
    from {{ declared_relation('consumed_loads') }} as consumed
    where consumed.load_id in (select lost.load_id from lost)
{% endmacro %}

{#
  A month that `tape retention` dropped from a level is closed: its candles, and those of the level computed from it, are no longer
  recomputed, because their input is incomplete. A trade that arrives later is still stored in raw and in `trades`.

  Tables are identified by uuid, so a table that was rebuilt has all its months again. Each drop is recorded twice, in `retention_drops` and in
  `verified_months`, because nothing else would tell it from trades that the exchange has withdrawn: candles would be removed. What one of
  them lost is read from the other, and restored by the next build.
#}

{# Select table_name, table_id, month and dropped_at of what `tape retention` dropped, from its second record. #}
{% macro second_record_of_drops(verified_months) -%}
    select own_state as table_name, toUUIDOrZero(source_state) as table_id, month, toDateTime64(verified_at, 3, 'UTC') as dropped_at
    from {{ verified_months }}
    where model = 'retention_drops'
{%- endmacro %}

{# Record in `verified_months` the drops that only `retention_drops` has, as those of an earlier version of `tape retention`. #}
{% macro record_drops_again() %}
    {%- set drops = load_relation(declared_relation('retention_drops')) -%}
    {%- if drops -%}
        {%- call insert_verified() -%}
            select distinct 'retention_drops', drops.month, toString(drops.table_id), drops.table_name
            from {{ drops }} as drops
            where (drops.table_id, drops.month) not in (
                select table_id, month from ({{ second_record_of_drops(declared_relation('verified_months')) }})
            )
        {%- endcall -%}
    {%- endif -%}
{% endmacro %}

{# Months (YYYYMM) that were dropped from any of `tables`: relations, names of models, or deribit_raw.trades. #}
{% macro dropped_months(tables) %}
    {%- set records = [] -%}
    {%- if execute and model.resource_type != 'unit_test' -%}
        {%- set drops, verified_months = load_relation(declared_relation('retention_drops')), load_relation(declared_relation('verified_months')) -%}
        {%- do records.append('select table_id, month from ' ~ drops) if drops -%}
        {%- do records.append('select table_id, month from (' ~ second_record_of_drops(verified_months) ~ ')') if verified_months -%}
    {%- endif -%}
    {%- if not records -%}
        {{ return([]) }}
    {%- endif -%}
    {%- set names = [] -%}
    {%- for table in tables -%}
        {%- if table is not string -%} {%- set relation = table -%}
        {%- elif table == 'deribit_raw.trades' -%} {%- set relation = source('deribit_raw', 'trades') -%}
        {%- else -%} {%- set relation = declared_relation(table) -%}
        {%- endif -%}
        {%- do names.append(relation.schema ~ '.' ~ relation.identifier) -%}
    {%- endfor -%}
    {%- set query -%}
        select distinct month from ({{ records | join(' union all ') }})
        where table_id in (
            select uuid from system.tables where concat(database, '.', name) in ('{{ names | join("', '") }}')
        )
        order by month
    {%- endset -%}
    {{ return(run_query(query).rows | map(attribute=0) | list) }}
{% endmacro %}

{# Predicate: the month of `time` was not dropped from any of `tables`. #}
{% macro is_retained(tables, time) -%}
    {%- set months = dropped_months(tables) -%}
    {%- if months -%} toYYYYMM({{ time }}) not in ({{ months | join(', ') }}) {%- else -%} true {%- endif -%}
{%- endmacro %}

{# The table that candles of `level` are computed from. #}
{% macro finer_table(level) -%}
    {%- set finer = var('candle_levels')[level].finer -%}
    {{ return(candle_table(finer) if finer else 'trade_versions') }}
{%- endmacro %}

{# Predicate: the month of `time` was dropped from none of `tables`, names of models, as of now. #}
{% macro is_month_open(tables, time) -%}
    toYYYYMM({{ time }}) not in (
        select drops.month
        from (
            select table_id, month from {{ ref('retention_drops') }}
            {%- if model.resource_type != 'unit_test' %}
            union all
            select table_id, month from ({{ second_record_of_drops(ref('verified_months')) }})
            {%- endif %}
        ) as drops
        where drops.table_id in (
            select tables.uuid from system.tables as tables
            where (tables.database, tables.name) in (
                {%- for table in tables -%}
                {%- set relation = declared_relation(table) if execute and model.resource_type != 'unit_test' else this -%}
                ('{{ relation.schema }}', '{{ relation.identifier }}'){{ ', ' if not loop.last }}
                {%- endfor -%}
            )
        )
    )
{%- endmacro %}

{# Whether this run creates the model's table. #}
{% macro is_rebuild() -%}
    {{ return(execute and model.resource_type != 'unit_test' and (flags.FULL_REFRESH or not load_relation(this))) }}
{%- endmacro %}

{# Whether the user accepts that rows are removed which cannot be computed again. #}
{% macro is_loss_accepted() -%} {{ return(var('accept_lost_months', false)) }} {%- endmacro %}

{#
  Months of the table `own` whose trades were loaded and are not in `source` any more, although no drop is recorded: partitions that were
  dropped by hand, or `source` was truncated. Nothing can restore them, so their candles stay, unless the user accepts the loss.
#}
{% macro lost_months(own, source) -%}
    {%- set query -%}
        select own_states.month
        from ({{ month_states(own) }}) as own_states
        left join ({{ month_states(source) }}) as source_states on own_states.month = source_states.month
        where own_states.month > 0 and source_states.rows = 0 and {{ is_comparable(own, source, 'own_states.month', '0') }}
        settings join_use_nulls = 0
    {%- endset -%}
    {%- set months = column_of(query) if not is_loss_accepted() else [] -%}
    {%- set loaded_seqs = load_relation(declared_relation('loaded_seqs')) if months -%}
    {%- set loaded = column_of('select arrayJoin(groupUniqArrayMerge(months)) from ' ~ loaded_seqs) if loaded_seqs else [] -%}
    {{ return(months | select('in', loaded) | list) }}
{%- endmacro %}

{#
  Refuse to go on if the table `own` lost rows of closed months since they were last compared: nothing is left of what they were computed from.
  Rows are appended and merged there, which retains the first block. If the user accepts the loss, it is recorded.
#}
{% macro require_closed_months(own, source) -%}
    {%- set query -%}
        select verified.month as month, own_states.state as state
        from ({{ last_states(model_of(own)) }}) as verified
        left join ({{ month_states(own) }}) as own_states on verified.month = own_states.month
        left join ({{ month_states(source) }}) as source_states on verified.month = source_states.month
        where verified.month > 0 and verified.own_state != ''
            and not startsWith(own_states.state, concat(substringIndex(verified.own_state, '-', 5), '-'))
            and not ({{ is_comparable(own, source, 'verified.month', 'source_states.rows') }})
            and verified.month not in ({{ (dropped_months([own]) or [0]) | join(', ') }})
    {%- endset -%}
    {%- set months = column_of(query ~ ' order by month settings join_use_nulls = 0') if dropped_months([source, 'deribit_raw.trades']) else [] -%}
    {%- if months and is_loss_accepted() -%}
        {%- call insert_verified() -%} select '{{ model_of(own) }}', month, '', state from ({{ query }}) {%- endcall -%}
    {%- elif months -%}
        {%- do raise_lost_rows(own, 'rows of ' ~ months | join(', ')) -%}
    {%- endif -%}
{%- endmacro %}

{% macro raise_lost_rows(own, rows) -%}
    {{ exceptions.raise_compiler_error(
        own.identifier ~ ' has lost ' ~ rows ~ ', which cannot be computed again because `tape retention` dropped what they are made from: '
        ~ "restore them from a backup of ClickHouse; then, or to go on without them, add --vars 'accept_lost_months: true'"
    ) }}
{%- endmacro %}

{# Refuse to rebuild the model from `table` if that lacks months, because the model's rows of those months would be lost. #}
{% macro require_complete_history(table) -%}
    {%- if is_rebuild() and not flags.EMPTY and not is_loss_accepted() -%}
        {%- if dropped_months([table]) -%}
            {{ exceptions.raise_compiler_error(
                this.identifier ~ ' would lose the months that `tape retention` dropped from ' ~ table ~ '; rebuild both: '
                ~ 'dbt run --full-refresh --select +' ~ this.identifier
            ) }}
        {%- endif -%}
        {%- do require_no_lost_months(declared_relation(table)) -%}
    {%- endif -%}
{%- endmacro %}

{# The same for a model that is computed from raw trades. #}
{% macro require_complete_raw_history() -%}
    {%- if is_rebuild() and not flags.EMPTY and not is_loss_accepted() -%}
        {%- if dropped_months(['deribit_raw.trades']) -%}
            {{ exceptions.raise_compiler_error(
                this.identifier ~ ' would lose the months that `tape retention` dropped from deribit_raw.trades; to build it from '
                ~ "the remaining rows anyway, add --vars 'accept_lost_months: true'"
            ) }}
        {%- endif -%}
        {%- do require_no_lost_months(source('deribit_raw', 'trades')) -%}
    {%- endif -%}
{%- endmacro %}

{# The same for months that no drop is recorded of. #}
{% macro require_no_lost_months(source) -%}
    {%- set months = lost_months(this, source) -%}
    {%- if months -%}
        {{ exceptions.raise_compiler_error(
            this.identifier ~ ' would lose ' ~ months | join(', ') ~ ', of which ' ~ source.identifier ~ ' has no rows any more; to build it '
            ~ "from the remaining rows anyway, add --vars 'accept_lost_months: true'"
        ) }}
    {%- endif -%}
{%- endmacro %}

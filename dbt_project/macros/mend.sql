{#
  `dbt build` compares the tables that are kept fresh with what they are computed from, and appends the rows that differ: after a table
  was truncated, lost a partition or was restored, and for a first build. Only months whose parts have changed since they were last
  compared are read (`verified_months`), each in ranges of instruments, so that no statement grows with the history, and an
  interrupted build continues with the next month. With `--vars 'audit: true'` every month is compared.
#}

{% macro run_statement(sql) %}
    {%- call statement('mend') -%} {{ sql }} {%- endcall -%}
{% endmacro %}

{% macro column_of(query) -%}
    {{ return(run_query(query).rows | map(attribute=0) | list) }}
{%- endmacro %}

{# Name of the model of a relation, whatever its alias. #}
{% macro model_of(relation) -%}
    {{ return(declared_node(relation.identifier).name) }}
{%- endmacro %}

{#
  Per month (YYYYMM) of a table: a text that changes when rows are inserted or lost, and when a merge removes older versions of rows, which
  costs one more comparison. Month 0 has what is not partitioned by month.
#}
{% macro month_states(relation) %}
    select
        toUInt32OrZero(parts.partition) as month,
        concat(
            {{ table_id(relation) }},
            ' ', toString(min(parts.min_block_number)), '-', toString(max(parts.max_block_number)),
            ' ', {{ newest_mutation() }}, ' ', toString(sum(parts.rows))
        ) as state,
        sum(parts.rows) as rows
    from {{ filled_parts(relation) }}
    group by month
{% endmacro %}

{# Id of a table as text; empty if there is none. #}
{% macro table_id(relation) -%}
    ifNull((
        select toString(tables.uuid) from system.tables as tables
        where tables.database = '{{ relation.schema }}' and tables.name = '{{ relation.identifier }}'
    ), '')
{%- endmacro %}

{# The newest mutation of some parts. #}
{% macro newest_mutation() -%} toString(max(toUInt64OrZero(splitByChar('_', parts.name)[5]))) {%- endmacro %}

{# Parts of a table that have rows. Where rows were dropped, ClickHouse keeps an empty part for a while. #}
{% macro filled_parts(relation) -%}
    system.parts as parts
    where parts.active and parts.rows > 0 and parts.database = '{{ relation.schema }}' and parts.table = '{{ relation.identifier }}'
{%- endmacro %}

{# Whether a table has no rows, or does not exist. #}
{% macro has_no_rows(relation) -%}
    {{ return(column_of('select count() from ' ~ filled_parts(relation))[0] == 0) }}
{%- endmacro %}

{# Whether the table of a relation is one of those that are not partitioned by month. #}
{% macro is_one_for_all_months(own) -%}
    {{ return(model_of(own) in ('loaded_seqs', 'instrument_ends', 'odd_trade_keys', 'refresh_log', 'consumed_loads')) }}
{%- endmacro %}

{#
  One state for all months: what does not change when rows are appended or merged, with the number of blocks that are missing between the
  others, and, after a slash, the last block. Empty without rows.
#}
{% macro whole_state(own) %}
        ifNull((
            select concat(
                {{ table_id(own) }}, ' ', toString(min(parts.min_block_number)), ' ', {{ newest_mutation() }},
                ' ', toString(max(parts.max_block_number) - min(parts.min_block_number) + 1
                    - sum(parts.max_block_number - parts.min_block_number + 1)),
                '/', toString(max(parts.max_block_number))
            )
            from {{ filled_parts(own) }}
            having count() > 0
        ), '')
{%- endmacro %}

{# As `month_states`, for the table that is compared. One that is not partitioned by month has one state for all months of `source`. #}
{% macro own_states(own, source) %}
    {%- if is_one_for_all_months(own) -%}
    select
        months.month as month,
        {{- whole_state(own) }} as state,
        months.rows as rows
    from ({{ month_states(source) }}) as months
    {%- else -%}
    {{ month_states(own) }}
    {%- endif -%}
{% endmacro %}

{# Predicate: the table `own` has lost or, if it is partitioned by month, got rows since it had the state `verified`. #}
{% macro has_changed(own, state, verified) -%}
    {%- if is_one_for_all_months(own) -%}
    {{ verified }} != '' and (
        splitByChar('/', {{ state }})[1] != splitByChar('/', {{ verified }})[1]
        or toInt64OrZero(splitByChar('/', {{ state }})[2]) < toInt64OrZero(splitByChar('/', {{ verified }})[2])
    )
    {%- else -%}
    {{ state }} != {{ verified }}
    {%- endif -%}
{%- endmacro %}

{#
  Predicate: `tape retention` has not closed the month. One that it dropped from the raw trades is closed, too, if the trades have lost it
  since: they cannot be loaded again, so the candles are all that is left.
#}
{% macro is_comparable(own, source, month, source_rows) -%}
    {%- set months = dropped_months([own, source]) -%}
    {%- set raw_months = dropped_months(['deribit_raw.trades']) if model_of(source) == 'trade_versions' -%}
    {{ month }} not in ({{ (months or [0]) | join(', ') }})
    {%- if raw_months %} and ({{ source_rows }} > 0 or {{ month }} not in ({{ raw_months | join(', ') }})) {%- endif -%}
{%- endmacro %}

{# Per month: the states of the last comparison of `model`, a name in `verified_months`. #}
{% macro last_states(model) %}
    select month, argMax(source_state, verified_at) as source_state, argMax(own_state, verified_at) as own_state
    from {{ declared_relation('verified_months') }}
    where model = '{{ model }}'
    group by month
{% endmacro %}

{#
  The months in which `source` or `own` has changed since `own` was last compared, or every month, in groups of some 500,000 rows: lists
  of texts, `months` for SQL and `states`, rows for `verified_months`.
#}
{% macro changed_months(own, source, every=var('audit', false) or is_loss_accepted()) %}
    {%- set query -%}
        with

        source_states as ({{ month_states(source) }}),

        own_states as ({{ own_states(own, source) }}),

        verified as ({{ last_states(model_of(own)) }}),

        months as (
            select month from source_states
            union distinct
            select month from own_states
            union distinct
            select month from verified
        ),

        changed as (
            select
                months.month as month,
                source_states.state as state,
                greatest(source_states.rows, own_states.rows) as rows
            from months
            left join source_states on months.month = source_states.month
            left join own_states on months.month = own_states.month
            left join verified on months.month = verified.month
            where months.month > 0 and {{ is_comparable(own, source, 'months.month', 'source_states.rows') }}
                {% if not every -%}
                and (
                    source_states.state != verified.source_state
                    or {{ has_changed(own, 'own_states.state', 'verified.own_state') }}
                )
                {%- endif %}
        ),

        numbered as (
            select *, intDiv(sum(changed.rows) over (order by changed.month), {{ mended_rows() }}) as part from changed
        )

        select
            toString(groupArray(numbered.month)),
            arrayStringConcat(groupArray(concat('(', toString(numbered.month), ', ', char(39), numbered.state, char(39), ')')), ', ')
        from numbered
        group by numbered.part
        having count() > 0
        order by numbered.part
        settings join_use_nulls = 0
    {%- endset -%}
    {{ return(run_query(query).rows) }}
{% endmacro %}

{# Rows that one statement compares. Returned as a number: Jinja repeats a text that is multiplied. #}
{% macro mended_rows() -%} {{ return(500000) }} {%- endmacro %}

{# Add to `verified_months` what the block selects: model, month, source_state and own_state. #}
{% macro insert_verified() %}
    {%- do run_statement(
        'insert into ' ~ declared_relation('verified_months') ~ ' (model, month, source_state, own_state, verified_by, verified_at) '
        ~ 'select *, ' ~ verified_by() ~ ', now64(6) from (' ~ caller() ~ ') settings join_use_nulls = 0'
    ) -%}
{% endmacro %}

{# Record the state of months: `states` has the source's from before the comparison. #}
{% macro record_verified(own, source, states) %}
    {%- call insert_verified() -%}
        with own_states as ({{ own_states(own, source) }})
        select '{{ model_of(own) }}', compared.month, compared.state, own_states.state
        from (select month, state from values('month UInt32, state String', {{ states }})) as compared
        left join own_states on compared.month = own_states.month
    {%- endcall -%}
{% endmacro %}

{# First values of `key` of ranges that divide the rows of `source` of some months into portions of as many rows. #}
{% macro range_starts(source, time, months, key, rows=none) %}
    {%- set query -%}
        select min(key) as first_key
        from (
            select key, intDiv(sum(rows) over (order by key), {{ rows or mended_rows() }}) as part
            from (
                select {{ key }} as key, count() as rows from {{ source }}
                where toYYYYMM({{ time }}) in {{ months }}
                group by key
            )
        )
        group by part
        order by first_key
    {%- endset -%}
    {{ return(column_of(query)) }}
{% endmacro %}

{# Predicates that divide the instruments of some months into ranges of as many rows of `source`. #}
{% macro instrument_ranges(source, time, months, rows=none) %}
    {%- set names = range_starts(source, time, months, 'instrument_name', rows) -%}
    {%- set ranges = [] -%}
    {%- for name in names or [''] -%}
        {%- do ranges.append(
            ('instrument_name >= ' ~ sql_text(name) if not loop.first else 'true')
            ~ (' and instrument_name < ' ~ sql_text(names[loop.index]) if not loop.last else '')
        ) -%}
    {%- endfor -%}
    {{ return(ranges) }}
{% endmacro %}

{# Add a row without load packages to the log; returns the version of what is computed from here on. #}
{% macro commit_refresh() %}
    {%- set log = declared_relation('refresh_log') -%}
    {%- do run_statement('insert into ' ~ log ~ ' select * from ' ~ refresh_view(log) ~ '(loads = [])') -%}
    {{ return(column_of('select count() from ' ~ log)[0]) }}
{% endmacro %}

{# The existing tables whose versions are numbers of rows of the log. #}
{% macro versioned_tables() -%}
    {%- set tables = [] -%}
    {%- for step in var('refresh_steps') if 'version' in step.get('parameters', []) -%}
        {%- set table = load_relation(declared_relation(step.table)) -%}
        {%- do tables.append(table) if table and table not in tables -%}
    {%- endfor -%}
    {{ return(tables) }}
{%- endmacro %}

{#
  Whether a table that is not partitioned by month has lost rows, or rows of it were updated, since it was last compared. `never_compared`:
  predicate on its `state` if it never was.
#}
{% macro has_lost_rows(own, never_compared) -%}
    {%- set query -%}
        select if(verified = '', {{ never_compared }}, {{ has_changed(own, 'state', 'verified') }})
        from (
            select
                {{ whole_state(own) }} as state,
                (
                    select argMax(own_state, verified_at) from {{ declared_relation('verified_months') }}
                    where model = '{{ model_of(own) }}'
                ) as verified
        )
    {%- endset -%}
    {{ return(column_of(query)[0]) }}
{%- endmacro %}

{#
  If the log has lost rows, add as many as make the next version greater than every stored one: rows that are computed from now on would
  lose against older ones otherwise. Versions that are greater by more than `most` are invented, see `remove_invented_versions`.
#}
{% macro mend_refresh_log(most=10000000) %}
    {%- if has_lost_rows(this, never_compared='true') -%}
        {%- set rows = column_of('select count() from ' ~ this)[0] -%}
        {%- set newest = [rows] -%}
        {%- for table in versioned_tables() -%}
            {%- do newest.append(column_of('select max(version) from ' ~ table ~ ' where version <= ' ~ (rows + most))[0]) -%}
        {%- endfor -%}
        {%- set missing = newest | max - rows -%}
        {%- if missing -%}
            {%- do run_statement(
                'insert into ' ~ this ~ " (refreshed_at, loads) settings insert_deduplicate = 0 select now64(3, 'UTC'), [] from numbers(" ~ missing ~ ')'
            ) -%}
            {%- do log(this.identifier ~ ': ' ~ missing ~ ' rows were missing and are added', info=true) -%}
        {%- endif -%}
        {%- call insert_verified() -%}
            select '{{ model_of(this) }}', 0, '', {{ whole_state(this) }} as state where state != ''
        {%- endcall -%}
    {%- endif -%}
{% endmacro %}

{# The view that candles of `level` are computed from, and the column with the time of its rows. #}
{% macro candle_source(level) -%}
    {%- set finer = var('candle_levels')[level].finer -%}
    {{ return((ref('ohlcv_' ~ finer), 'bucket_at') if finer else (ref('trades'), 'timestamp')) }}
{%- endmacro %}

{# Columns of the table `own` that are compared: all but the version. #}
{% macro compared_columns(own) -%}
    {{ return(declared_node(own.identifier).columns | reject('equalto', 'version') | join(', ')) }}
{%- endmacro %}

{#
  CTEs for the candles of some months and a range of instruments: `recomputed` as computed from their source, `stored` as stored,
  `differing` those of `recomputed` that are not stored as they are, and `emptied` those stored although their source has no rows, except in the
  months `kept`.
#}
{% macro candle_differences(level, own, months, range, kept=[]) %}
{%- set source_view, time = candle_source(level) -%}
{%- set columns = compared_columns(own) -%}
source_rows as (
    select * from {{ source_view }} where toYYYYMM({{ time }}) in {{ months }} and {{ range }}
),

{{ coarser_candles(level, 'source_rows') if var('candle_levels')[level].finer else minute_candles('source_rows') }},

{{ compact_candles(level, 'candles') }},

stored as (
    select * from {{ own }} final where toYYYYMM(bucket_at) in {{ months }} and {{ range }}
),

recomputed as (
    select {{ columns }} from compact
),

-- sipHash128 of a tuple takes twenty times as long; that a wrong row has the hash of one of 500,000 others is as good as impossible.
differing as (
    select * from recomputed
    where cityHash64(tuple({{ columns }})) not in (select cityHash64(tuple({{ columns }})) from stored)
),

emptied as (
    select instrument_name, bucket_at from stored
    where trade_count > 0 and {{ is_not_kept(kept) }} and (instrument_name, bucket_at) not in (
        select instrument_name, {{ bucket_start(level, time) }} from source_rows
    )
)
{% endmacro %}

{#
  Remove the rows of `this` for which `where` holds and whose version is greater than any that a refresh can have; returns whether there
  were some. Rows that were inserted under `version` lost against them, and a merge may have removed them, so they are to be inserted again.
#}
{% macro remove_invented_versions(where, version) %}
    {%- set rows = ' from ' ~ this ~ ' where ' ~ where ~ ' and version > ' -%}
    {%- if column_of('select count()' ~ rows ~ version)[0] -%}
        {%- set newest = column_of('select count() from ' ~ declared_relation('refresh_log'))[0] -%} {#- other refreshes since -#}
        {%- if column_of('select count()' ~ rows ~ newest)[0] -%}
            {%- do run_statement('delete' ~ rows ~ newest) -%}
            {{ return(true) }}
        {%- endif -%}
    {%- endif -%}
    {{ return(false) }}
{% endmacro %}

{#
  Insert under `version` the rows that differ from those computed, and empty ones where there should be none. Where nothing is stored yet,
  there is nothing to compare: all computed rows are inserted, in two thirds of the time.
#}
{% macro insert_differing(differences, key, where, version) %}
    {%- set columns = compared_columns(this) -%}
    {%- set is_stored = column_of('select count() from (select 1 from ' ~ this ~ ' where ' ~ where ~ ' limit 1)')[0] -%}
    {%- call statement('differing') -%}
        insert into {{ this }} ({{ columns }}, version) settings insert_deduplicate = 0
        with {{ differences }}
        select {{ columns }}, {{ version }} from {{ 'differing' if is_stored else 'recomputed' }}
    {%- endcall -%}
    {%- if is_stored -%}
        {%- call statement('emptied') -%}
            insert into {{ this }} ({{ key }}, version) settings insert_deduplicate = 0
            with {{ differences }}
            select {{ key }}, {{ version }} from emptied
        {%- endcall -%}
    {%- endif -%}
{% endmacro %}

{#
  Append the rows of `this` that differ from those computed, and log how many there were. `differences` are CTEs as those of
  `candle_differences`, of some months and a `range`; `key` names the columns that identify a row.
#}
{% macro replace_differing(differences, key, months, range, rows) %}
    {%- set version = commit_refresh() -%}
    {%- set where = 'toYYYYMM(bucket_at) in ' ~ months ~ ' and ' ~ range -%}
    {%- do insert_differing(differences, key, where, version) -%}
    {%- if remove_invented_versions(where, version) -%}
        {%- do insert_differing(differences, key, where, version) -%}
    {%- endif -%}
    {%- set query = 'select count() from ' ~ this ~ ' where version = ' ~ version ~ ' and toYYYYMM(bucket_at) in ' ~ months -%}
    {%- set mended = column_of(query)[0] -%}
    {%- if mended -%}
        {%- do log(this.identifier ~ ': ' ~ mended ~ ' ' ~ rows ~ ' of ' ~ months ~ ' were missing or wrong and are replaced', info=true) -%}
    {%- endif -%}
{% endmacro %}

{# Predicate: the bucket of a row is in none of the months `kept`, as `lost_months` returns them. #}
{% macro is_not_kept(kept) -%} toYYYYMM(bucket_at) not in ({{ (kept or [0]) | join(', ') }}) {%- endmacro %}

{# `lost_months` of `this`, logged. Data tests compare them, so a build fails until the trades are there again or the loss is accepted. #}
{% macro months_to_keep(source) -%}
    {%- set months = lost_months(this, source) -%}
    {%- if months -%}
        {%- do log(
            this.identifier ~ ': ' ~ source.identifier ~ ' has lost the rows of ' ~ months | join(', ') ~ ', so these months are kept as they are; '
            ~ "to remove them: dbt build --vars 'accept_lost_months: true'", info=true
        ) -%}
    {%- endif -%}
    {{ return(months) }}
{%- endmacro %}

{# Replace the candles of `this` that differ from those computed from their source. #}
{% macro mend_candles(level) %}
    {%- set source = ref(finer_table(level)) -%}
    {%- do require_closed_months(this, source) -%}
    {%- set kept = months_to_keep(source) -%}
    {%- for months, states in changed_months(this, source) -%}
        {%- for range in instrument_ranges(source, candle_source(level)[1], months) -%}
            {%- set differences = candle_differences(level, this, months, range, kept) -%}
            {%- do replace_differing(differences, 'instrument_name, bucket_at', months, range, 'candles') -%}
        {%- endfor -%}
        {%- do record_verified(this, source, states) -%}
    {%- endfor -%}
{% endmacro %}

{# The macros that the config `mend` of the stored levels names. #}
{% macro mend_ohlcv_1m() %} {%- do mend_candles('1m') -%} {% endmacro %}
{% macro mend_ohlcv_1h() %} {%- do mend_candles('1h') -%} {% endmacro %}

{#
  Versions and values of `trade_versions`, compared with raw for some months. First, rows with a version that their trade does not have in
  raw are removed: they would win against the right ones, and a wrong mark hides its trade. Then what is missing is loaded again.
#}
{% macro mend_versions(own, months) %}
    {%- set ranges = instrument_ranges(own, 'timestamp', months) -%}
    {%- set removed = [] -%}
    {%- for range in ranges -%}
        {%- do removed.append(range) if remove_foreign_versions(own, months, range) -%}
    {%- endfor -%}
    {%- do restore_lost_trades(own, months) if removed -%}
    {%- for range in ranges -%}
        {%- do refresh_all(loads_with_lost_versions(own, months, range)) -%}
    {%- endfor -%}
    {%- do mend_values(own, months) -%}
{% endmacro %}

{# Whether some months have a version that is greater than any of a load package in raw. #}
{% macro has_later_versions(own, months) -%}
    {%- set query -%}
        select max(version) >= 4096 * (1 + coalesce(
            (select {{ load_us('loads.load_id') }} from {{ ref('stg_deribit__loads') }} as loads order by loads.load_id desc limit 1), 0
        ))
        from {{ own }}
        where toYYYYMM(timestamp) in {{ months }}
    {%- endset -%}
    {{ return(column_of(query)[0]) }}
{%- endmacro %}

{#
  The next thousand rows after `after`, of some months and instruments, that are not simply a version in raw: the text of an array
  of (instrument_name, trade_seq, month, version, is_moved), and the last of them. Marks are among them.
#}
{% macro doubtful_versions(own, months, where, after) %}
    select toString(groupArray(place)), toString(max(place))
    from (
        select distinct (instrument_name, trade_seq, toYYYYMM(timestamp), version, is_moved) as place
        from {{ own }}
        where
            toYYYYMM(timestamp) in {{ months }} and {{ where }} {{ 'and place > ' ~ after if after }}
            and (
                is_moved or version % 4096 != 0
                or (instrument_name, trade_seq, toYYYYMM(timestamp), intDiv(version, 4096)) not in (
                    select instrument_name, trade_seq, toYYYYMM(timestamp), {{ load_us('load_id') }}
                    from {{ ref('stg_deribit__trade_times') }}
                    where toYYYYMM(timestamp) in {{ months }} and {{ where }}
                )
            )
        order by place
        limit 1000
    )
    having count() > 0
{% endmacro %}

{#
  Per month those of some doubtful rows whose trade is in raw, but not with this version: a row has a version of its month, a mark
  one of another month. Raw is read after these rows, and has each version before `trade_versions` does. Where months of raw were dropped,
  a mark may belong to one of them. The last twelve bits are 0, unless the load package has the trade twice.
#}
{% macro foreign_versions(places) %}
    with

    doubtful as (
        select arrayJoin({{ places }}) as place
    ),

    origins as (
        select instrument_name, trade_seq, groupArray((toYYYYMM(timestamp), {{ load_us('load_id') }})) as versions
        from {{ ref('stg_deribit__trade_times') }}
        where (instrument_name, trade_seq) in (select doubtful.place.1, doubtful.place.2 from doubtful)
        group by instrument_name, trade_seq
    ),

    compared as (
        select
            doubtful.place as place,
            arrayFilter(each -> each.2 = intDiv(doubtful.place.4, 4096), origins.versions) as same
        from doubtful
        inner join origins on doubtful.place.1 = origins.instrument_name and doubtful.place.2 = origins.trade_seq
    )

    select compared.place.3 as month, toString(groupArray(compared.place)), count()
    from compared
    where
        (compared.place.4 % 4096 != 0 and length(compared.same) < 2)
        or (
            not arrayExists(each -> (each.1 != compared.place.3) = (compared.place.5 = 1), compared.same)
            {%- if dropped_months([source('deribit_raw', 'trades')]) %}
            and (compared.place.5 = 0 or notEmpty(compared.same))
            {%- endif %}
        )
    group by month
{% endmacro %}

{# Remove the rows of some months and instruments that `foreign_versions` selects; returns whether there were some. #}
{% macro remove_foreign_versions(own, months, where) %}
    {%- set progress = namespace(after='', done=false, removed=0) -%}
    {%- for _ in range(100000) if not progress.done -%}
        {%- set page = run_query(doubtful_versions(own, months, where, progress.after)).rows -%}
        {%- set progress.done = not page -%}
        {%- for places, last in page -%}
            {%- set progress.after = last -%}
            {%- for month, foreign, rows in run_query(foreign_versions(places)).rows -%}
                {%- do run_statement(
                    'delete from ' ~ own ~ ' in partition ' ~ month
                    ~ ' where (instrument_name, trade_seq, toYYYYMM(timestamp), version, is_moved) in ' ~ foreign
                ) -%}
                {%- set progress.removed = progress.removed + rows -%}
            {%- endfor -%}
        {%- endfor -%}
    {%- endfor -%}
    {%- if progress.removed -%}
        {%- do log(own.identifier ~ ': ' ~ progress.removed ~ ' rows of ' ~ months ~ ' had a version that raw does not have and are removed', info=true) -%}
    {%- endif -%}
    {{ return(progress.removed > 0) }}
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
        where toYYYYMM(timestamp) in {{ months }} and {{ range }} and load_id in (select load_id from {{ declared_relation('consumed_loads') }})
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

{# Number of stored trades in some months that differ from the same version in some load packages. #}
{% macro other_values(trade_versions, months, loads) %}
    {%- set values = trade_digest(trade_versions) -%}
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

{#
  Months that began with other rows when they were last compared, as before a backup of the table or of the month was restored: the text of
  an array. Read before lost rows are loaded again, with which a month begins anew, too.
#}
{% macro replaced_months(own) -%}
    {%- set query -%}
        select toString(groupArray(kept.month))
        from ({{ kept_states(own) }}) as kept
        inner join ({{ last_states(model_of(own)) }}) as verified on kept.month = verified.month
        where not startsWith(verified.own_state, concat(substringIndex(kept.state, ' ', 2), '-'))
    {%- endset -%}
    {{ return(column_of(query)[0]) }}
{%- endmacro %}

{#
  Whether rows of some months have been updated or deleted since they were last compared, or at all if they never were, or are of the months
  `replaced`.
#}
{% macro are_updated(own, months, replaced) -%}
    {%- set query -%}
        select count()
        from ({{ month_states(own) }}) as states
        left join ({{ last_states(model_of(own)) }}) as verified on states.month = verified.month
        where states.month in {{ months }}
            and (
                has({{ replaced }}::Array(UInt32), states.month)
                or splitByChar(' ', states.state)[3] != if(verified.own_state = '', '0', splitByChar(' ', verified.own_state)[3])
            )
        settings join_use_nulls = 0
    {%- endset -%}
    {{ return(column_of(query)[0] > 0) }}
{%- endmacro %}

{#
  Predicate: a row of some months of `own` is in a part with rows that were inserted since the month was last compared. A part is named after its
  partition and its blocks, and ClickHouse reads no other parts.
#}
{% macro is_new_row(own, months) -%}
    {%- set query -%}
        select toString(groupArray(toString(month))), toString(groupArray(toInt64(extract(own_state, '-(\\d+) '))))
        from ({{ last_states(model_of(own)) }})
        where month in {{ months }} and startsWith(own_state, {{ table_id(own) }})
    {%- endset -%}
    {%- set compared_months, blocks = run_query(query).rows[0].values() -%}
    toYYYYMM(timestamp) in {{ months }}
    and toInt64(splitByChar('_', _part)[3])
    > transform(splitByChar('_', _part)[1], {{ compared_months }}::Array(String), {{ blocks }}::Array(Int64), toInt64(-1))
{%- endmacro %}

{# Whether a row of some months that was inserted since they were last compared is not as raw has it. Reads the packages of these rows only. #}
{% macro has_wrong_new_rows(own, months) -%}
    {%- set is_new = is_new_row(own, months) -%}
    {%- set progress = namespace(after='', is_wrong=column_of(rows_of_no_load(own, is_new))[0] > 0) -%}
    {%- for _ in range(100000) if progress.after is not none and not progress.is_wrong -%}
        {%- set portions = run_query(
            'select toString(loads), arrayMax(loads) from (' ~ portions_of(loads_of_rows(own, is_new, progress.after)) ~ ')'
        ).rows -%}
        {%- for loads, _ in portions if not progress.is_wrong -%}
            {%- set progress.is_wrong = column_of(wrong_rows(own, is_new, loads))[0] > 0 -%}
        {%- endfor -%}
        {%- set progress.after = (portions | last)[1] if portions else none -%}
    {%- endfor -%}
    {{ return(progress.is_wrong) }}
{%- endmacro %}

{# Finished load packages that may be those of the rows of `own` for which `where` holds, by their time in seconds, with which an id begins. #}
{% macro loads_since(own, where) %}
    select loads.load_id as load_id, {{ load_us('loads.load_id') }} as load_us
    from {{ ref('stg_deribit__loads') }} as loads
    where loads.load_id >= (select toString(intDiv(min(version), 4096 * 1000000)) from {{ own }} where {{ where }})
{% endmacro %}

{# Number of rows whose version is that of no finished load package. #}
{% macro rows_of_no_load(own, where) %}
    select count() from {{ own }}
    where {{ where }} and intDiv(version, 4096) not in (select load_us from ({{ loads_since(own, where) }}))
{% endmacro %}

{# Load packages of the rows, with an id greater than `after`. #}
{% macro loads_of_rows(own, where, after) %}
    select load_id from ({{ loads_since(own, where) }})
    where load_id > '{{ after }}' and load_us in (select intDiv(version, 4096) from {{ own }} where {{ where }})
{% endmacro %}

{# Hash of all columns of a trade, to compare rows by. #}
{% macro trade_digest(own) -%} cityHash64(tuple({{ declared_node(own.identifier).columns | join(', ') }})) {%- endmacro %}

{# Number of rows of some load packages that are not what `refresh_trade_versions` selects: a mark has the version of a row of another month. #}
{% macro wrong_rows(own, where, loads) %}
    with

    computed as (
        select instrument_name, trade_seq, toYYYYMM(timestamp) as month, version, {{ trade_digest(own) }} as digest
        from {{ refresh_view(own) }}(loads = {{ loads }})
    )

    select countIf(
        if(
            is_moved,
            (instrument_name, trade_seq, version) not in (select instrument_name, trade_seq, version from computed)
                or (instrument_name, trade_seq, version, toYYYYMM(timestamp)) in (select instrument_name, trade_seq, version, month from computed),
            {{ trade_digest(own) }} not in (select digest from computed)
        )
    )
    from {{ own }}
    where {{ where }} and intDiv(version, 4096) in (select {{ load_us('load') }} from (select arrayJoin({{ loads }}) as load))
{% endmacro %}

{#
  Which load packages count. A package is finished when dlt's table of loads lists it, and consumed when its trades are in all tables that
  are kept fresh. Their number grows for ever, so what is asked for each load or test reads the newest ones only.
#}

{# Predicate: the load package of a row of `rows` is finished. Only the packages that `rows` names are looked up. #}
{% macro is_finished(load_id, rows) -%}
    {{ load_id }} in (
        select loads.load_id from {{ ref('stg_deribit__loads') }} as loads
        where loads.load_id in (select named.load_id from {{ rows }} as named)
    )
{%- endmacro %}

{#
  The load id up to which all packages are consumed, as a build has recorded; empty if another package is listed among them since. ClickHouse
  counts the rows below a value of the sort key without reading them.
#}
{% macro consumed_until(verified_months) -%}
    (
        with (
            select argMax(splitByChar(' ', source_state), verified_at) from {{ verified_months }} where model = 'consumed_loads'
        ) as recorded
        select if(toString(count()) = recorded[2], recorded[1], '') from {{ source('deribit_raw', '_dlt_loads') }} where load_id <= recorded[1]
    )
{%- endmacro %}

{# Finished load packages with an id greater than `after` that are not consumed. #}
{% macro pending_loads(consumed_loads, after="''") %}
    select loads.load_id as load_id
    from {{ ref('stg_deribit__loads') }} as loads
    where
        loads.load_id > {{ after }}
        and loads.load_id not in (select consumed.load_id from {{ consumed_loads }} as consumed where consumed.load_id > {{ after }})
{% endmacro %}

{# Record up to which load id all packages are consumed, if none is pending. #}
{% macro record_consumed_loads(consumed_loads) %}
    {%- call insert_verified() -%}
        select 'consumed_loads', 0, concat(max(load_id), ' ', toString(count())), {{ whole_state(consumed_loads) }}
        from {{ source('deribit_raw', '_dlt_loads') }}
        having max(load_id) != '' and countIf(status = 0 and load_id not in (select consumed.load_id from {{ consumed_loads }} as consumed)) = 0
    {%- endcall -%}
{% endmacro %}

{# Load packages, finished or not, since the last record. #}
{% macro count_of_later_loads() -%}
    {%- set query -%}
        select count() from {{ source('deribit_raw', '_dlt_loads') }} where load_id > {{ consumed_until(declared_relation('verified_months')) }}
    {%- endset -%}
    {{ return(column_of(query)[0]) }}
{%- endmacro %}

{#
  What a data test looks at. `dbt build` checks what the model's newest run touched, so that its cost follows the new;
  `dbt test` checks everything there is. Tests read the views, so unmerged duplicates are no rows to them.
#}
{% macro checks_everything() -%}
    {{ return(flags.WHICH != 'build') }}
{%- endmacro %}

{# Predicate: a load package that `table` has consumed, in its newest run or ever. #}
{% macro is_checked(column, table) -%}
    {%- if checks_everything() -%}
    {{ column }} in ({{ consumed_loads(table) }})
    {%- else -%}
    {{ column }} in (
        select load_id from {{ ref('load_ledger') }}
        where model = '{{ table }}' and claim_id = '{{ newest_claim(table) }}' and is_consumed
    )
    {%- endif -%}
{%- endmacro %}

{# The claim that `table` consumed last: asked once, for the ledger is long and a test looks it up again and again. #}
{% macro newest_claim(table) -%}
    {%- set query -%}
        select argMax(claim_id, claimed_at) from {{ ref('load_ledger').render() }} where model = '{{ table }}' and is_consumed
    {%- endset -%}
    {{ return(run_query(query).rows[0][0] if execute else '') }}
{%- endmacro %}

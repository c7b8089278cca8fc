{#
  Scope of the data tests. `dbt build` tests what the model's newest run touched, so that its cost depends on new data only;
  `dbt test` tests all rows. Tests read the views, which have no unmerged duplicates.
#}
{% macro is_full_test() -%}
    {{ return(flags.WHICH != 'build') }}
{%- endmacro %}

{# Predicate: a load package that `table` has consumed, in its newest run or, for a full test, ever. #}
{% macro in_test_scope(column, table) -%}
    {%- if is_full_test() -%}
    {{ column }} in ({{ consumed_loads(table) }})
    {%- else -%}
    {{ column }} in (
        select load_id from {{ ref('load_ledger') }}
        where model = '{{ table }}' and claim_id = '{{ newest_claim_id(table) }}' and is_consumed
    )
    {%- endif -%}
{%- endmacro %}

{# Id of the claim that `table` consumed last; queried once, because the ledger is long and tests use it repeatedly. #}
{% macro newest_claim_id(table) -%}
    {%- set query -%}
        select argMax(claim_id, claimed_at) from {{ ref('load_ledger').render() }} where model = '{{ table }}' and is_consumed
    {%- endset -%}
    {{ return(run_query(query).rows[0][0] if execute else '') }}
{%- endmacro %}

{# Why a trade is odd: a value that the exchange should not send. Null where it is not. #}
{% macro oddity_of_trade() -%}
    multiIf(
        direction not in ('buy', 'sell'), 'unknown direction',
        kind not in ('future', 'option', 'spot', 'future_combo', 'option_combo'), 'unknown kind',
        timestamp > expiry, 'traded after its expiry',
        not ({{ is_in_range('price') }} and {{ is_in_range('amount') }} and amount >= 0), 'price or amount out of range',
        null
    )
{%- endmacro %}

{# Add the odd trades of the months that have changed since they were last searched. #}
{% macro mend_odd_trade_keys() %}
    {%- set trade_versions = ref('trade_versions') -%}
    {%- for months, states in changed_months(this, trade_versions) -%}
        {%- call statement('mend') -%}
            insert into {{ this }}
            select instrument_name, trade_seq from {{ ref('trades') }}
            where toYYYYMM(timestamp) in {{ months }} and {{ oddity_of_trade() }} is not null
        {%- endcall -%}
        {%- do record_verified(this, trade_versions, states) -%}
    {%- endfor -%}
{% endmacro %}

{#
  Lossless compact storage of floats with few decimals: 45.07, 94738.78, 0.00056176. An integer of the digits and the number of
  decimal places take half of the bytes of a float. Dividing returns the same float, because the division rounds as parsing the
  text does. A number for which no number of places works is stored as its bits.
#}
{%- macro as_bits() -%} {{ return(255) }} {%- endmacro -%}

{% macro decimal_places(number) -%}
    {%- set float = 'assumeNotNull(' ~ number ~ ')' -%}
    toUInt8(multiIf(
        {%- for places in (2, 4, 8) %}
        abs({{ float }}) < {{ 9 * 10 ** (15 - places) }}
        and {{ float }} = round({{ float }} * exp10({{ places }})) / exp10({{ places }}), {{ places }},
        {%- endfor %}
        {{ as_bits() }}
    ))
{%- endmacro %}

{% macro decimal_digits(number, places) -%}
    multiIf(
        {{ number }} is null, null,
        {{ places }} = {{ as_bits() }}, reinterpretAsInt64(assumeNotNull({{ number }})),
        toInt64(round(assumeNotNull({{ number }}) * exp10({{ places }})))
    )
{%- endmacro %}

{% macro decimal_number(digits, places) -%}
    if({{ places }} = {{ as_bits() }}, reinterpretAsFloat64({{ digits }}), {{ digits }} / exp10({{ places }}))
{%- endmacro %}

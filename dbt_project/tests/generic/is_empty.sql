{# The model has no rows. #}
{% test is_empty(model) %}
{{ blocks_nothing() }}
select * from {{ model }}
{% endtest %}

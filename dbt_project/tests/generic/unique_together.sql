{# The grain of a model: no two rows have the same values in `columns`. #}
{% test unique_together(model, columns) %}
{{ blocks_nothing() }}
select {{ columns | join(', ') }}, count() as times
from {{ model }}
group by {{ columns | join(', ') }}
having times > 1
{% endtest %}

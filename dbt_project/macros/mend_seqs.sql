{# Add the numbers of trades that `loaded_seqs` lacks. #}
{% macro mend_loaded_seqs() %}
    {%- set own, trade_versions = declared_relation('loaded_seqs'), declared_relation('trade_versions') -%}
    {%- for months, states in changed_months(own, trade_versions) if load_relation(own) and load_relation(trade_versions) -%}
        {%- call statement('mend') -%}
            insert into {{ own }}
            with

            stored as (
                select
                    instrument_name,
                    {{ seq_chunk('trade_seq') }} as chunk,
                    groupBitmapState(toUInt64(trade_seq)) as seqs,
                    groupBitmapState(toUInt64(trade_seq + 1)) as followers,
                    groupUniqArrayState(toYYYYMM(timestamp)) as months,
                    groupUniqArray(toYYYYMM(timestamp)) as month_list
                from {{ trade_versions }}
                where toYYYYMM(timestamp) in {{ months }} and not is_moved
                group by instrument_name, chunk
            ),

            listed as (
                select
                    instrument_name,
                    chunk,
                    groupBitmapMergeState(seqs) as seqs,
                    groupBitmapMergeState(followers) as followers,
                    groupUniqArrayMerge(months) as months
                from {{ own }}
                where (instrument_name, chunk) in (select instrument_name, chunk from stored)
                group by instrument_name, chunk
            )

            select stored.* except (month_list) from stored
            left join listed on stored.instrument_name = listed.instrument_name and stored.chunk = listed.chunk
            where
                not hasAll(listed.months, stored.month_list)
                or bitmapAndnotCardinality(stored.seqs, listed.seqs) > 0
                or bitmapAndnotCardinality(stored.followers, listed.followers) > 0
        {%- endcall -%}
        {%- do record_verified(own, trade_versions, states) -%}
    {%- endfor -%}
{% endmacro %}

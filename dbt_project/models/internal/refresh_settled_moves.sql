-- Moves whose old rows were marked by an earlier refresh: `trades` no longer has to look at them.
{{ config(materialized='parameterized_view', contract={'enforced': false}) }}
with

unsettled as (
    select * from {{ latest_versions(ref('moved_trades')) }}
    where is_between_months and not is_settled
),

final as (
    select
        unsettled.* except (is_settled),
        toUInt8(1) as is_settled
    from unsettled
    where unsettled.load_id in (
        select consumed.load_id from {{ ref('consumed_loads') }} as consumed
        where consumed.load_id in (select unsettled.load_id from unsettled)
    )
)

select * from final

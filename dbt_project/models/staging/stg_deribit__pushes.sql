-- One row per month and push that proved it to be equal in another database; empty where nothing was pushed from.
with

source as (
    select * from {{ optional_source('pushes', {
        'target': "String",
        'partition_month': "String",
        'trades': "UInt64",
        'proven_at': "DateTime64(3, 'UTC')"
    }) }}
),

final as (
    select
        toString(target) as target,
        toString(partition_month) as month,
        toUInt64(trades) as trades,
        toDateTime64(proven_at, 3, 'UTC') as proven_at
    from source
)

select * from final

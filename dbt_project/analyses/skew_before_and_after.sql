-- One row per tenor: mean 25-delta risk reversal of inverse options in the `hours` before and after an event, in
-- percent points. The event is `hours` before `at`.
with

tenors as (
    select
        *,
        bucket_at >= {{ analysis_time() }} - toIntervalHour({{ var('hours', 12) }}) as is_after
    from {{ ref('iv_tenors_1h') }}
    where
        underlying = {{ analysis_underlying() }}
        and settlement_currency = {{ analysis_underlying() }}
        and bucket_at >= {{ analysis_time() }} - toIntervalHour({{ 2 * (var('hours', 12) | int) }})
        and bucket_at <= {{ analysis_time() }}
),

final as (
    select
        tenor_days,
        avgIf(risk_reversal_25, not is_after) as before,
        avgIf(risk_reversal_25, is_after) as after,
        after - before as change,
        count() as hours
    from tenors
    group by tenor_days
    order by tenor_days
)

select * from final

-- One row per (instrument_name, timestamp): the funding that a perpetual charged for the hour that ends at timestamp.
with

{{ newest_rows(
    ref('stg_deribit__funding_rates'),
    key=['instrument_name', 'timestamp'],
    columns=['index_price', 'prev_index_price', 'interest_1h', 'interest_8h']
) }},

final as (
    select
        instrument_name,
        timestamp,
        index_price,
        prev_index_price,
        interest_1h,
        interest_8h
    from newest
)

select * from final

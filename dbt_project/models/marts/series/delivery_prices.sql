-- One row per (index_name, date): the price at which the instruments of an index expired.
with

{{ newest_rows(ref('stg_deribit__delivery_prices'), key=['index_name', 'date'], columns=['delivery_price']) }},

final as (
    select
        index_name,
        date,
        delivery_price
    from newest
)

select * from final

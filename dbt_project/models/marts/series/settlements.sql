-- One row per (currency, type, timestamp, instrument_name): a delivery, daily settlement or bankruptcy.
with

{{ newest_rows(
    ref('stg_deribit__settlements'),
    key=['currency', 'type', 'timestamp', 'instrument_name'],
    columns=[
        'index_price', 'mark_price', 'position', 'profit_loss', 'session_profit_loss', 'funding', 'funded',
        'session_bankruptcy', 'session_tax', 'session_tax_rate', 'socialized'
    ]
) }},

final as (
    select
        currency,
        type,
        timestamp,
        instrument_name,
        index_price,
        mark_price,
        position,
        profit_loss,
        session_profit_loss,
        funding,
        funded,
        session_bankruptcy,
        session_tax,
        session_tax_rate,
        socialized
    from newest
)

select * from final

-- One row per (underlying, quote_currency, bucket_at): volume-weighted price of a coin across its instruments.
{{ underlying_vwap(ref('ohlcv_1h')) }}

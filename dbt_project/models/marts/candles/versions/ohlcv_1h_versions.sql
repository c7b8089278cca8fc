{{ config(pre_hook="{{ claim_loads('ohlcv_15m_versions') }}") }}

{{ candles('1h', finer='15m') }}

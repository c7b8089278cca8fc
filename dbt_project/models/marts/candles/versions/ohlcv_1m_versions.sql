{{ config(pre_hook="{{ claim_loads('trade_versions') }}") }}

{{ candles_from_trades('ohlcv_1m_versions', 'toStartOfMinute') }}

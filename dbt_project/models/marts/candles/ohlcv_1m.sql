{{ latest_candles(ref('ohlcv_1m_versions')) }}

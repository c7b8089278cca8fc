{{ latest_candles(ref('ohlcv_15m_versions')) }}

{{ latest_candles(ref('ohlcv_1mo_versions')) }}

{{ combined_candles('4h', finer='1h') }}

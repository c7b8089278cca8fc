{{ combined_candles('1w', finer='1h') }}

{{ combined_candles('1mo', finer='1h') }}

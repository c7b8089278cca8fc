"""Verification of candles against the exchange's own: a proof that does not depend on trade_seq.

classify   compare one bar with one candle, and name the reason of a difference; no I/O
sample     which charts to compare next
explain    the reason of a difference, from the exchange's trades of its time
verify     compare a sample of charts, and record the result in deribit.candle_checks
"""

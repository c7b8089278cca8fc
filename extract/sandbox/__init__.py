"""A Deribit exchange on loopback, with a deterministic tape of trades, the API's quirks and injected faults.

tape      trades and instruments, generated from a seed or loaded from recorded API records
live      a tape whose history ends at a given time, and that continues as the clock moves
server    the HTTP server that serves a tape
quirks    unreliable behaviour of the real API
series    funding, deliveries, settlements and the volatility index, derived from the trades
traps     misleading answers of the series
faults    errors to inject, scripted by request number or at a random rate
"""

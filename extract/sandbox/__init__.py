"""A Deribit exchange on loopback, with a deterministic tape of trades, the API's quirks and injected faults.

tape      trades and instruments, generated from a seed or loaded from recorded API records
server    the HTTP server that serves a tape
quirks    unreliable behaviour of the real API
faults    errors to inject, scripted by request number or at a random rate
"""

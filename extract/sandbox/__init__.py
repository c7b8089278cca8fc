"""A Deribit on loopback: a deterministic tape of trades, the API's own quirks, faults on demand.

tape      trades and instruments: generated from a seed, or loaded from recorded API records
server    the exchange that answers for a tape over HTTP
faults    what goes wrong on the way, scripted or at a rate
"""

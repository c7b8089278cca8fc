"""Certificates of the edge: an authority per environment, the certificates that it signs, and their expiry.

`authority` creates and signs certificates, `store` manages their files, `expiry` checks how long they are valid.
"""

ROLES = ("loader", "transformer", "reader")
"""Names of the client certificates. The edge maps each to the ClickHouse user of that name."""
SERVER = "server"
"""Name of the edge's own certificate."""

"""The HTTP API and the page: a read-only server on the tables of the models, for programs and people."""

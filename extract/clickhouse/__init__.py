"""Where trades go: connection settings, the dlt destination over HTTP(S) alone, the embedded server."""

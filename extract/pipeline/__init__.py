"""One run: its options, its exclusive session, extraction and loading window by window, and recovery."""

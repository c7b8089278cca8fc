"""What it costs: bills as the clouds state them, volume as it was measured, and plans made of both."""

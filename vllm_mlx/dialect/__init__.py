"""Wire to core and back: pure functions and small accumulators. No URL, no status code."""

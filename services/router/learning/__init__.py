"""What requests that ended teach: lengths, waits, misses."""

"""Sizing: from expected load to the fewest workers that keep it within its targets."""

"""The workers as this router believes they are now, one by one and in columns."""

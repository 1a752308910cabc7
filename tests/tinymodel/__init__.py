"""The model that Baton ships: its files fit together, and it says what it was taught."""

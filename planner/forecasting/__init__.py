"""Forecasts: methods that follow a load, and the ensemble that picks by its own recent error."""

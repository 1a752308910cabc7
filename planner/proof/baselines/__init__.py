"""Autoscalers of others, by their published rules: each a `Scaler` with the values it is tuned by."""

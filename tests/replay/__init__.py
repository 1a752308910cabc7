"""The fast simulated cluster."""

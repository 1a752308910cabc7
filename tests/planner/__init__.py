"""What the planner promises: needs, forecasts, decisions, its shells."""

"""Observers: where the planner sees demand, backlog and attainment."""

"""What the proof of the planner promises: loads, fluid cluster, bound, autoscalers of others."""

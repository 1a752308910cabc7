"""The planner: sizes the prefill and decode pools so that the latency targets hold at the least GPU cost."""

"""The decode phase of a worker: tokens of many requests, one frame per step and gateway."""

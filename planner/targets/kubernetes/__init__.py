"""The scale target on Kubernetes: one connection, a view of each workload, a lease, and the writes."""

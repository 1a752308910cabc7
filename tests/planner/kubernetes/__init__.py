"""The planner on Kubernetes: followed workloads, writes, leases, faults."""

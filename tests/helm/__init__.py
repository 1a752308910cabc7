"""The Helm chart: what it renders, what it refuses, and that the programs do what it says."""

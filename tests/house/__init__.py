"""The house rules: tests that read the repository instead of running it."""

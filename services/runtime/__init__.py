"""What every process needs: clock, settings, supervised tasks, lifecycle, telemetry, metric names."""

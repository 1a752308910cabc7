"""Scale targets: who has workers started, turned and stopped."""

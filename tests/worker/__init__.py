"""Tests of one worker: what it finds out about its engine and what it does then."""

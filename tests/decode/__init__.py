"""Tests of the decode phase."""

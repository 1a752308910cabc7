"""Tests of the prefill phase."""

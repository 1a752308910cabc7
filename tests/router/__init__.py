"""Tests of the router, grouped by what it promises."""

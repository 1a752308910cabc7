"""Hypothesis as all tests have it: no example is timed, since machines are shared and stand still."""

from hypothesis import settings

settings.register_profile("untimed", settings.default, deadline=None)
settings.load_profile("untimed")

"""Lets the shared suite's asserts explain themselves."""

import pytest

pytest.register_assert_rewrite("tests.engine.contract", "tests.engine.bench")

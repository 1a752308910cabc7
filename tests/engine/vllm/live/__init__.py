"""Two real engines, booted once for all tests of this folder."""

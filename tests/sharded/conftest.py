"""Processes for the tests of the wing."""

from processes import processes, started  # noqa: F401  (fixtures)

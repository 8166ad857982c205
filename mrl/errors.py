"""The errors a user can meet, one line each: what is wrong, where, and what to do about it."""

from __future__ import annotations


class MRLError(Exception):
    """Base of every error that `mrl` raises on purpose."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the line written for people, without the stack above it."""
        return [f"{type(self).__name__}: {self}"]


class DataError(MRLError):
    """A file, a download or a data set is not what it should be."""


class ConfigError(MRLError, ValueError):
    """A setting is impossible or unknown; raised before any data is loaded."""


class RunError(MRLError):
    """A run directory cannot be read, written, resumed or trained further."""

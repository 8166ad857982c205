"""The errors a user can meet, one line each: what is wrong, where, and what to do about it."""

from __future__ import annotations

LONGEST = 1000  # characters of a message; what a broken file has for a name or a header may be any length


class MRLError(Exception):
    """Base of every error that `mrl` raises on purpose. Its message is one line of at most `LONGEST` characters."""

    def __init__(self, message: object = "") -> None:
        line = " ".join(str(message).splitlines())
        if len(line) > LONGEST:
            line = f"{line[: LONGEST // 2]} … {line[3 - LONGEST // 2 :]}"
        super().__init__(line)

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the line written for people, without the stack above it."""
        return [f"{type(self).__name__}: {self}"]


class DataError(MRLError):
    """A file, a download or a data set is not what it should be."""


class ConfigError(MRLError, ValueError):
    """A setting is impossible or unknown; raised before any data is loaded."""


class RunError(MRLError):
    """A run directory cannot be read, written, resumed or trained further."""

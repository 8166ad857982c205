"""One line that says where a run stands: its phase, the best value so far, and how long it will take still.

It rewrites itself on a terminal and in JupyterLab. Where nobody watches (papermill, a file) a few lines are written.
"""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
import time
from collections.abc import Mapping
from typing import Any

import polars as pl

from mrl.config import TrainConfig

RARELY = 20.0  # seconds between the lines that are written where nobody watches
OFTEN = 0.1  # and between those that rewrite themselves
# Of a run with a search, how much is done after the trials that choose a setting; roughly, on sets of 10^5 pairs.
DONE = {"width": 0.35, "fit_width": 0.45, "nested_sweeps": 0.5, "rotation": 0.62}
PENALTY_DONE, FINAL_DONE, PENALTY_TRIALS = 0.2, 0.3, 7
MEASURED = ("trial", "value", "seconds")  # of a trial, beside the settings that it tries
REFIT_SHARE = 0.8  # of what is left after the search, if no epoch gains
LINE_WIDTH = 94  # characters; JupyterLab in a window of 1,200 pixels breaks words after 95


def share_done(trial: dict) -> float:
    """How much of a run is done after a trial of its search, a row of the history."""
    if "alpha0" in trial or "frequency_l2" in trial:
        return FINAL_DONE if "rotation" in trial else PENALTY_DONE * min(1.0, trial["trial"] / PENALTY_TRIALS)
    return next((share for name, share in DONE.items() if name in trial), DONE["rotation"])


def describe_tried(trial: dict) -> str:
    """What a trial of the search tried, a row of the history: `alpha0 0.3, frequency_l2 0.01`."""
    settings = {name: value for name, value in trial.items() if name not in MEASURED and value is not None}
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def describe_chosen(chosen: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """What the search chose, as far as it is not the usual: `chosen: alpha0 0.3, sweeps 2; the rest as usual`.

    usual: by name; what is not in it is always told.
    """
    told = {name: _plain(value) for name, value in chosen.items() if value not in (None, (), [])}
    unusual = {name: value for name, value in told.items() if name not in usual or value != _plain(usual[name])}
    settings = ", ".join(f"{name} {value}" for name, value in unusual.items()) or "the usual settings"
    return f"chosen: {settings}{'; the rest as usual' if 0 < len(unusual) < len(told) else ''}"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


class Progress:
    """The line of a run, on stderr; nothing where it is not `shown`."""

    def __init__(self, *, shown: bool):
        self.shown, self.rewrites = shown, is_watched()
        self.started = self.said = time.monotonic()
        self.phase, self.length = "", 0

    def say(self, phase: str, text: str = "", seconds_left: float | None = None) -> None:
        """Where the run stands; a new phase is said at once, the rest every now and then."""
        now = time.monotonic()
        if not self.shown or (phase == self.phase and now - self.said < (OFTEN if self.rewrites else RARELY)):
            return
        self.phase, self.said = phase, now
        left = "" if seconds_left is None else f", about {readable_seconds(seconds_left)} left"
        line = f"{phase}{': ' if text else ''}{text} ({readable_seconds(now - self.started)}{left})"
        if sys.stderr.isatty():  # a line that breaks could not be rewritten
            line = cut_middle(line, shutil.get_terminal_size().columns - 1)
        self._write(line)

    def note(self, line: str) -> None:
        """A line that stays; a long one is folded."""
        for part in folded(line).splitlines() if self.shown else ():
            self._write(part)
            if self.rewrites:
                sys.stderr.write("\n")
                self.length = 0

    def _write(self, line: str) -> None:
        if self.rewrites:
            sys.stderr.write("\r" + line.ljust(self.length))
            self.length = len(line)
        else:
            sys.stderr.write(folded(line) + "\n")
        sys.stderr.flush()


def log_trial(
    progress: Progress, config: TrainConfig, rows: list[dict], row: dict, started: float, about: int
) -> float:
    """Keep a trial of the search in the rows of the history, and say where the run stands; returns the seconds left.

    started: of `time.perf_counter`. about: how many trials there will be. 0 where nothing is known of what is left.
    """
    rows.append({"phase": "settings"} | row)
    # Trials of other settings are judged by other widths and users: their values say nothing of this one's.
    alike = [trial for trial in rows if trial.keys() - {"phase"} == row.keys()]
    best = max(trial["value"] for trial in alike)
    elapsed, share = time.perf_counter() - started, share_done(row)
    # The first trial compiles, too: its seconds say nothing of the others.
    is_known = row["trial"] > 1 and config.least_squares.alpha0 is None
    left = elapsed * (1 - share) / share if is_known else None
    trial = f"trial {row['trial']} of about {about}, {describe_tried(row)}"
    monitor = config.early_stopping.monitor
    progress.say("settings", f"{trial}: {monitor} {row['value']:.4f}, best {best:.4f}", left)
    return left or 0.0


def tell_end(
    progress: Progress,
    config: TrainConfig,
    rows: list[dict],
    chosen: dict,
    seconds: float,
    best_epoch: int,
    advice: str,
) -> None:
    """Say what was chosen, where the time went, and which width to take. rows: of the history."""
    history = pl.DataFrame(rows, infer_schema_length=None)
    spent = history.group_by("phase", maintain_order=True).agg(pl.col("seconds").sum())
    shares = ", ".join(f"{phase.replace('_', ' ')} {readable_seconds(spent)}" for phase, spent in spent.iter_rows())
    if chosen:
        progress.note(describe_chosen(chosen, config.usual()))
    progress.note(f"done in {readable_seconds(seconds)}: {shares}; best epoch {best_epoch}")
    if advice:
        progress.note(advice)


def folded(line: str, indent: str = "  ") -> str:
    """A line in lines of `LINE_WIDTH`, the others indented; words stay whole, and numbers with their unit."""
    held = re.sub(r"(?<=\d) (?=(s|min|h)\b|%)", "\0", line)
    options = {"subsequent_indent": indent, "break_long_words": False, "break_on_hyphens": False}
    return "\n".join(textwrap.wrap(held, LINE_WIDTH, **options)).replace("\0", " ")


def cut_middle(line: str, most: int) -> str:
    """A line of at most so many characters: the phase begins it and the time left ends it, so its middle goes."""
    if len(line) <= most:
        return line
    head = (most - 3) // 2
    return f"{line[:head]} … {line[len(line) - (most - 3 - head) :]}"


def is_watched() -> bool:
    """Whether somebody sees a line that rewrites itself: on a terminal, or in a notebook that may ask for input.

    papermill and nbconvert execute cells that may not.
    """
    if sys.stderr.isatty():
        return True
    kernel = getattr(getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)(), "kernel", None)
    return bool(getattr(kernel, "_allow_stdin", False))


def readable_seconds(seconds: float) -> str:
    """8 s, 3:05 min, 1:20 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{seconds:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"

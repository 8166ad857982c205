"""Trainings in several processes: started by torchrun from Python or a notebook, and what each of them does.

The first process tells how far it is, one JSON object a line, where `MESSAGES` asks for it; else as any training.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

import mrl.train
from mrl import errors
from mrl.config import TrainConfig
from mrl.data import Interactions, resolve_dataset
from mrl.distributed.train import check_sharded, train
from mrl.errors import ConfigError, MRLError, RunError
from mrl.parameters import as_config
from mrl.runs import Progress, Run, load, run_path
from mrl.sharded.group import join, leave

MESSAGES = "MRL_MESSAGES"  # in the environment: whoever started the processes reads what they tell


def fit(
    config: TrainConfig, data: Interactions | None = None, *, processes: int | None = None, progress: bool = True
) -> Run:
    """Train, evaluate and write the run directory; return it, loaded (`mrl.train.fit`).

    data: as from `load_data`, if it is at hand. processes: instead of those of the config; several are started by
    torchrun on this machine, and read the data of the config themselves. progress: a line on stderr: phase, trial or
    epoch, best value, time left. Raises as `mrl.train.fit`, and ConfigError for what is not sharded over processes.
    """
    config = config if processes is None else replace(config, processes=processes)
    if config.processes == 1:
        return mrl.train.fit(config, data, progress=progress)
    check_sharded(config)
    if data is not None:
        raise ConfigError(f"data: {config.processes} processes read the data of the config; leave data out")
    config = replace(config, dataset=resolve_dataset(config.dataset), run_dir=str(run_path(config).resolve()))
    start(config, Progress(shown=progress))
    return load(config.run_dir)


def arguments(config: TrainConfig) -> list[str]:
    """The settings as `name value …`, as `python -m mrl.distributed` takes them."""
    settings = config.to_dict().items()
    return [word for name, value in settings for word in (name, value if isinstance(value, str) else json.dumps(value))]


def start(config: TrainConfig, progress: Progress) -> None:
    """Run torchrun until it ends, on shards even in one process, and show what the first process tells.

    RunError where it fails.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={config.processes}"]
    command += ["--max-restarts=3", "-m", "mrl.distributed", *arguments(config)]
    threads = str(max(1, (os.cpu_count() or 1) // config.processes))
    environment = {"OMP_NUM_THREADS": threads} | os.environ | {MESSAGES: "1"}
    tail, fault = deque(maxlen=20), None
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    try:
        for line in process.stdout:
            message = _message(line)
            if message is None:
                tail.append(line.strip())
            elif "say" in message:
                progress.say(*message["say"])
            elif "note" in message:
                progress.note(message["note"])
            else:
                fault = fault or message["fault"]
                process.terminate()  # started again they would fail again
        process.wait()
    finally:
        if process.poll() is None:  # interrupted: torchrun ends its processes, too
            process.terminate()
            process.wait()
    if fault:
        raise getattr(errors, fault[0])(fault[1])
    if process.returncode:
        said = next((line for line in reversed(tail) if "Error" in line), next(reversed(tail), "nothing was said"))
        raise RunError(f"a process of {config.processes} ended without a result ({said[:200]}); see its machine's log")


def _message(line: str) -> dict | None:
    try:
        message = json.loads(line) if line.startswith('{"mrl": ') else None
    except ValueError:
        return None
    return message and message["mrl"]


class Messages(Progress):
    """What a training tells, as JSON on stdout, for whoever started its processes."""

    def say(self, phase: str, text: str = "", seconds_left: float | None = None) -> None:
        self.tell(say=[phase, text, seconds_left])

    def note(self, line: str) -> None:
        self.tell(note=line)

    def tell(self, **message: Any) -> None:
        if self.shown:
            sys.stdout.write(json.dumps({"mrl": message}) + "\n")
            sys.stdout.flush()


def run(words: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """One process of a training, by `name value …` with the parameters of `train.ipynb`; its exit status.

    Started by torchrun; without it, the only one. An error of mrl is one line.
    """
    told = MESSAGES in environment
    is_first = environment.get("RANK", "0") == "0"
    progress = (Messages if told else Progress)(shown=is_first)
    try:
        if len(words) % 2:
            raise ConfigError(f"{words[-1]}: has no value; give parameters as name value, such as dataset ml-100k")
        config = as_config(TrainConfig, dict(zip(words[::2], words[1::2], strict=True)))
        check_sharded(config)
        torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", torch.get_num_threads())))
        group = join("cpu" if config.recipe == "mrl4rec" else config.device)  # whose compiled loops are of CPUs
        path = train(replace(config, processes=group.size), group, progress)
        if is_first and not told:
            sys.stdout.write(f"{path}\n")
    except MRLError as error:
        if told:
            progress.shown = True  # whichever process fails first
            progress.tell(fault=[type(error).__name__, str(error)])
        elif is_first or not getattr(error, "is_shared", False):
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    leave()
    return 0

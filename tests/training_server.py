"""A process that imports everything once and forks a training for every request: a kill costs no import.

    with TrainingServer() as server: server.train(config)  # how it ended

Run as a program it reads requests from stdin, a JSON object a line, and answers each with a JSON object on stdout.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FILE_EVENTS = ("open", "os.rename", "os.remove")
PLANTED = {"num_users": 60, "num_items": 40, "interactions": 700, "branching": [2, 2]}


class TrainingServer:
    """The side of the tests: starts the process and sends it requests."""

    def __enter__(self) -> TrainingServer:
        script = Path(__file__)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{script.parents[1]}:{script.parent}"}
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=60)

    def train(
        self,
        config: dict,
        *,
        after: float | None = None,
        at: int | None = None,
        within: int | None = None,
        by: int = signal.SIGKILL,
    ) -> dict[str, Any]:
        """Train as `config` says; a signal comes `after` seconds, or just before file operation number `at`.

        by: that signal.
        within: the file that is opened for writing by file operation number `within`, or next after it, takes a few
        bytes before the process dies in the middle of writing it (by SIGXFSZ: the kernel's doing, nobody can catch it).
        Returns the signal it died of (0: none), the exit status, the seconds, the number of file operations and the
        error that ended it, where one did.
        """
        request = {"config": config, "after": after, "at": at, "within": within, "by": int(by)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def _count_file_operations(folder: str, at: int | None, within: int | None, by: int, counted: int) -> None:
    """Count file operations in `folder` by dots in the pipe `counted`; die at the one that was asked for."""
    operations = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal operations
        if event not in FILE_EVENTS or folder not in str(arguments[0]):
            return
        operations += 1
        os.write(counted, b".")
        if operations == at:
            os.kill(os.getpid(), by)
        writing = event == "open" and str(arguments[0]).endswith(".tmp")
        if within is not None and operations >= within and writing:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))

    sys.addaudithook(hook)


def _train(request: dict, counted: int) -> None:
    from mrl.config import TrainConfig
    from mrl.train import fit

    config = TrainConfig(**request["config"])
    _count_file_operations(config.run_dir, request["at"], request["within"], request["by"], counted)
    fit(config, progress=False)


def _answer(request: dict) -> dict[str, Any]:
    count, counted = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(count)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            _train(request, counted)
            status = 0
        except BaseException as error:
            os.write(counted, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(status)
    os.close(counted)
    ended, after = 0, request["after"]
    while after is not None and ended == 0 and time.monotonic() - started < after:
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.002)
    if ended == 0:
        if after is not None:
            os.kill(child, request["by"])  # not waited for yet, so the number is still its own
        _, status = os.waitpid(child, 0)
    seconds = time.monotonic() - started
    written = b""
    while block := os.read(count, 65536):
        written += block
    os.close(count)
    error = written.lstrip(b".")
    died = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return {
        "died": died,
        "status": status,
        "seconds": seconds,
        "operations": len(written) - len(error),
        "error": error.decode(),
    }


def _import_and_compile() -> None:
    """Import and compile what a training needs, but start no thread: a fork would not have it."""
    import torch

    import mrl.train  # noqa: F401
    from mrl.config import TrainConfig
    from mrl.data.interactions import Positives
    from mrl.evaluation.ranking import VectorRanking
    from mrl.trainer import Trainer

    torch.set_num_threads(1)
    pairs = [(user, item) for user in range(30) for item in range(0, 30, 3)]
    positives = Positives.from_pairs(*map(list, zip(*pairs, strict=True)), 30, 30)
    trainer = Trainer(TrainConfig(recipe="mrl4rec", widths=(2, 4), device="cpu"), positives, torch.device("cpu"))
    with torch.no_grad():
        vectors = trainer.vectors()
        trainer.sampler(torch.arange(8), vectors[0][:8], vectors[1][:8], vectors[1], generator=trainer.generator)
        next(VectorRanking(*vectors, (2, 4))(torch.arange(4), 5, [positives]))


if __name__ == "__main__":
    _import_and_compile()
    gc.freeze()  # as in forked_kernels
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)

"""Kernels for notebooks that are forked from one process: what they import of others is imported once, not by each.

Jupyter starts a kernel as ever, by a kernelspec; the program that it starts asks the process for a fork, passes signals
on to it and ends as it ends. The fork runs ipykernel, and imports `mrl` itself. Run as a program:

    python forked_kernels.py serve SOCKET              # forks a kernel for every request
    python forked_kernels.py ask SOCKET ARGUMENTS …    # the program of the kernelspec
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# What notebooks spend seconds on; nothing of it starts a thread, which a fork would not have.
IMPORTED = (
    *("ipykernel.kernelapp", "matplotlib.pyplot", "matplotlib_inline.backend_inline", "nbconvert", "nbformat", "numba"),
    *("numpy", "papermill", "scipy.sparse.linalg", "scipy.stats", "seaborn", "sklearn.cluster", "sklearn.metrics"),
    *("statsmodels.stats.multitest", "torch", "torch._dynamo", "torch.distributed.checkpoint", "tqdm.auto"),
)


@contextmanager
def kernel_server() -> Iterator[Path]:
    """While it runs, a kernel named python3 is a fork where $JUPYTER_PATH has this folder; also of a notebook's own."""
    with tempfile.TemporaryDirectory(prefix="mrl-") as folder:  # a short name: sockets have room for no other
        address, script = Path(folder) / "asked", str(Path(__file__).resolve())
        spec = Path(folder) / "kernels" / "python3"
        spec.mkdir(parents=True)
        argv = [sys.executable, "-S", script, "ask", str(address), "-f", "{connection_file}"]
        (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "forked", "language": "python"}))
        environment = os.environ | {"OMP_NUM_THREADS": "1"}  # read when torch is imported, not by each fork
        server = subprocess.Popen([sys.executable, script, "serve", str(address)], env=environment)
        try:
            yield Path(folder)
        finally:
            server.terminate()
            server.wait(timeout=60)


def ask(address: str, arguments: list[str]) -> int:
    """The exit status of a kernel with these arguments, in this folder and environment."""
    started = time.monotonic()
    with socket.socket(socket.AF_UNIX) as connection:
        while connection.connect_ex(address):  # it still imports
            if time.monotonic() - started > 120:
                return 1
            time.sleep(0.05)
        answers = connection.makefile("rw")
        print(
            json.dumps({"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}), file=answers
        )
        answers.flush()
        kernel = int(answers.readline())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: os.kill(kernel, number))
        return int(answers.readline() or 1)


def become_kernel(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """What a new interpreter would be, in the fork."""
    parent = os.getppid()
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = ["", *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = ["ipykernel_launcher", *arguments]
    from ipykernel.kernelapp import IPKernelApp

    quiet = "--IPKernelApp.log_level=CRITICAL"  # it tells of TCP, and of interrupts
    IPKernelApp.launch_instance([*arguments, f"--IPKernelApp.parent_handle={parent}", quiet])


def serve(address: str) -> None:
    """Fork for every request, until SIGTERM."""
    import importlib
    import selectors

    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # as mrl does, before torch is imported
    for name in IMPORTED:
        importlib.import_module(name)
    sys.path.pop(0)  # the folder of the tests
    gc.freeze()  # what is imported is not looked through again by each fork
    listener, waiting, kernels = socket.socket(socket.AF_UNIX), selectors.DefaultSelector(), {}
    listener.bind(address)
    listener.listen()
    waiting.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select(timeout=0.05 if kernels else None):
            if key.fileobj is not listener:  # killed before its kernel ended
                os.kill(kernels[key.fileobj], signal.SIGKILL)
                waiting.unregister(key.fileobj)
                continue
            connection, _ = listener.accept()
            request = json.loads(connection.makefile("r").readline())
            kernel = os.fork()
            if kernel == 0:
                for each in (listener, waiting, connection, *kernels):
                    each.close()
                become_kernel(**request)
                os._exit(0)
            connection.sendall(f"{kernel}\n".encode())
            waiting.register(connection, selectors.EVENT_READ)
            kernels[connection] = kernel
        for connection, kernel in list(kernels.items()):
            ended, status = os.waitpid(kernel, os.WNOHANG)
            if not ended:
                continue
            if connection in waiting.get_map():
                waiting.unregister(connection)
                with suppress(OSError):  # killed at this moment
                    connection.sendall(f"{os.waitstatus_to_exitcode(status) % 256}\n".encode())
            connection.close()
            del kernels[connection]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(ask(sys.argv[2], sys.argv[3:]))

"""Starts `peregrine serve`, waits until it is loaded, and ends it."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOAD_LIMIT_S = 1800
END_LIMIT_S = 60


# Otherwise a script that is told to end would leave its server behind.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def fail(message):
    """Ends the script with an error."""
    sys.exit(f"error: {message}")


def program():
    """The release build of peregrine."""
    path = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/peregrine"
    if not path.exists():
        fail(f"{path} is not there; build it with: cargo build --release")
    return str(path)


class Server:
    """A server that runs: its process, and the addresses of gRPC and HTTP as HOST:PORT."""

    def __init__(self, process, log):
        self.process = process
        self.grpc, self.http = re.search(r"gRPC on ([^\s,]+), HTTP on ([^\s,]+)", log).groups()

    def workers(self):
        """The ids of its worker processes."""
        tasks = pathlib.Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(child) for task in tasks for child in task.read_text().split()]

    def signal_workers(self, number):
        """Sends a signal to every worker."""
        for worker in self.workers():
            os.kill(worker, number)


def last_lines(path):
    return "\n".join(path.read_text(errors="replace").splitlines()[-5:])


@contextlib.contextmanager
def server(flags):
    """Starts a server with these flags, waits until it is loaded, yields it as a `Server`, and ends it."""
    with tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder) / "log"
        command = [program(), "serve", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", *flags]
        with log.open("w") as stderr:
            process = subprocess.Popen(command, stderr=stderr)
        try:
            deadline = time.monotonic() + LOAD_LIMIT_S
            while "loaded " not in log.read_text(errors="replace"):
                if process.poll() is not None:
                    fail(f"{' '.join(command)} ended:\n{last_lines(log)}")
                if time.monotonic() > deadline:
                    fail(f"the model is not loaded after {LOAD_LIMIT_S} s:\n{last_lines(log)}")
                time.sleep(0.1)
            yield Server(process, log.read_text(errors="replace"))
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(END_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()

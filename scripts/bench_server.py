"""A server for the length of a benchmark, and `peregrine bench serve` against it."""

import contextlib
import json
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


def last_lines(path):
    return "\n".join(path.read_text(errors="replace").splitlines()[-5:])


@contextlib.contextmanager
def server(flags):
    """Starts a server with these flags, waits until it is loaded, yields its gRPC address, and ends it."""
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
            yield re.search(r"gRPC on ([^ ,]+)", log.read_text(errors="replace")).group(1)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(END_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()


@contextlib.contextmanager
def given_or_started(address, flags):
    """The server at `address`, or one that is started with these flags if there is no address."""
    if address and flags:
        fail("flags after -- are for a server that is started; --server names one that runs")
    if address:
        yield address
    else:
        with server(flags) as started:
            yield started


def bench_serve(address, arguments):
    """Runs `peregrine bench serve`, lets it print its table, and returns its runs."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "runs.json"
        command = [program(), "bench", "serve", "--server", address, "--json", str(out), *arguments]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if ended.returncode:
            fail(f"{' '.join(command)} failed")
        return ended.stdout, [json.loads(line) for line in out.read_text().splitlines()]


@contextlib.contextmanager
def endless(address, dataset):
    """Keeps one request of `dataset` under way, with no prompt twice."""
    load = ["--dataset", dataset, "--num-prompts", "10000", "--max-concurrency", "1", "--seed", "1"]
    command = [program(), "bench", "serve", "--server", address, *load]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        # It connects, and sends its first.
        time.sleep(2)
        yield
        if process.poll() is not None:
            fail(f"{' '.join(command)} ended early")
    finally:
        process.kill()
        process.wait()


def split_flags(arguments):
    """Arguments of the script, and those behind -- for the server."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]

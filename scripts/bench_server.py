"""A server for the length of a benchmark, and `peregrine bench serve` against it."""

import contextlib
import json
import pathlib
import subprocess
import tempfile
import time

import peregrine_server
from peregrine_server import fail, program


@contextlib.contextmanager
def server(flags):
    """Starts a server with these flags, waits until it is loaded, yields its gRPC address, and ends it."""
    with peregrine_server.server(flags) as started:
        yield started.grpc


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

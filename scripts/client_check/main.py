"""Runs today's clients, unmodified and pinned, against a server.

Installs each client into an environment of its own under target/client-check, starts a server on the demo model (or takes one
that runs), and lets each client do what its users do: whole answers, streams, errors. Prints a table; the exit code is 1 if
anything failed. Needs a release build of peregrine, and pip. Nothing but the package registry is asked. grpcurl runs where it is
on the PATH, guidellm where the python3 that runs this has torch.
"""

import argparse
import collections
import contextlib
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import peregrine_server
from client_check import environments

# name: what --only takes; module: in clients/; package: whose version is shown; environment: in requirements/;
# heavy: with --all alone.
Client = collections.namedtuple("Client", "name module package environment heavy", defaults=[False])

CLIENTS = [
    Client("raw", "raw", "-", None),
    Client("curl", "curl", "-", None),
    Client("grpcio", "grpcio", "grpcio", "core"),
    Client("prometheus_client", "prometheus", "prometheus_client", "core"),
    Client("boto3", "boto3_runtime", "boto3", "core"),
    Client("huggingface_hub", "huggingface_hub", "huggingface_hub", "core"),
    Client("openai", "openai", "openai", "core"),
    Client("text-generation", "text_generation", "text-generation", "text-generation"),
    Client("huggingface_hub-1", "huggingface_hub", "huggingface_hub", "langchain"),
    Client("langchain-huggingface", "langchain_huggingface", "langchain-huggingface", "langchain"),
    Client("langchain-openai", "langchain_openai", "langchain-openai", "langchain"),
    Client("langchain-aws", "langchain_aws", "langchain-aws", "langchain"),
    Client("litellm", "litellm", "litellm", "litellm"),
    Client("sagemaker", "sagemaker", "sagemaker", "sagemaker", heavy=True),
    Client("aiperf", "aiperf", "aiperf", "aiperf", heavy=True),
    Client("vllm", "vllm", "vllm", "vllm", heavy=True),
]
# What no registry has is taken where this machine has it.
if shutil.which("grpcurl"):
    CLIENTS.append(Client("grpcurl", "grpcurl", "-", None))
if importlib.util.find_spec("torch"):
    # Of torch the registry has the build for CUDA alone, 3 GB with what it needs; Debian's python3-torch will do.
    CLIENTS.append(Client("guidellm", "guidellm", "guidellm", "guidellm", heavy=True))
# What the checks of one client may take.
CLIENT_LIMIT_S = 600
HEAVY_LIMIT_S = 1800
END_LIMIT_S = 30


def environment_variables(home, http, grpc):
    """What a client finds: a home of its own, no way to the internet, and credentials that nobody looks at."""
    kept = {key: os.environ[key] for key in ["PATH", "LANG", "CARGO_TARGET_DIR"] if key in os.environ}
    # Nothing listens there: what a client asks of the internet fails at once.
    nowhere = "http://127.0.0.1:9"
    proxies = {name: nowhere for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]}
    loopback = {name: "127.0.0.1,localhost" for name in ["no_proxy", "NO_PROXY"]}
    aws = {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": f"http://{http}",
    }
    # HF_HUB_OFFLINE would keep InferenceClient from asking any server, this one too.
    quiet = {"HF_ENDPOINT": nowhere, "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    own = {"HOME": home, "PYTHONPATH": str(environments.FOLDER.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    addresses = {"PEREGRINE_HTTP": http, **({"PEREGRINE_GRPC": grpc} if grpc else {})}
    return {**kept, **proxies, **loopback, **aws, **quiet, **own, **addresses}


def wait_or_end(process, limit_s):
    """Waits for a client's process. One that takes too long is ended, with all that it started."""
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            # It ends its servers first.
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_LIMIT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_client(client, http, grpc, may_start):
    """The rows of one client's checks."""

    def failed(why):
        return {"check": "-", "version": "-", "outcome": "failed", "why": why, "seconds": 0.0}

    try:
        interpreter = environments.install(client.environment) if client.environment else sys.executable
    except environments.InstallError as error:
        return [failed(f"not installed: {error}")]
    with tempfile.TemporaryDirectory() as home:
        results, log = pathlib.Path(home) / "results", environments.CACHE / f"{client.name}.log"
        arguments = [client.module, client.package, str(results), *(["--may-start"] if may_start else [])]
        with log.open("w") as out:
            process = subprocess.Popen(
                [str(interpreter), "-m", "client_check.run_client", *arguments],
                cwd=home,
                env=environment_variables(home, http, grpc),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
            limit_s = HEAVY_LIMIT_S if client.heavy else CLIENT_LIMIT_S
            code = wait_or_end(process, limit_s)
        rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
        if code is None:
            rows.append(failed(f"not done after {limit_s} s; see {log}"))
        elif code or not rows:
            rows.append(failed(f"exit code {code}; see {log}"))
        return rows


def show(client, rows):
    for row in rows:
        name = f"{client.name} {row['version']}"
        line = f"{row['outcome']:7} {name:32} {row['check']:48} {row['seconds']:6.2f} s"
        print(f"{line}  {row['why']}".rstrip(), flush=True)


def parse(arguments):
    parser = argparse.ArgumentParser(prog="client-check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(client.name for client in CLIENTS)
    parser.add_argument("--only", metavar="NAME,..", help=f"these clients alone: {names}")
    parser.add_argument("--all", action="store_true", help="also what takes minutes to install: " + ", ".join(c.name for c in CLIENTS if c.heavy))
    parser.add_argument("--server", metavar="HOST:PORT", help="the HTTP address of a server on the demo model that runs; leaves out what breaks a server")
    parser.add_argument("--grpc", metavar="HOST:PORT", help="its gRPC address")
    parser.add_argument("--install", action="store_true", help="install the clients, and end")
    parser.add_argument("--json", metavar="FILE", help="also write the rows there, one JSON object a line")
    given = parser.parse_args(arguments)
    only = given.only.split(",") if given.only else None
    unknown = set(only or []) - {client.name for client in CLIENTS}
    if unknown:
        parser.error(f"no such client: {', '.join(sorted(unknown))}; there are {names}")
    if only:
        given.clients = [client for client in CLIENTS if client.name in only]
    else:
        given.clients = [client for client in CLIENTS if given.all or not client.heavy]
    return given


def install_all(clients):
    """Installs what is not there; an environment that fails is told again with its client."""
    for name in dict.fromkeys(client.environment for client in clients if client.environment):
        start, there = time.monotonic(), environments.is_installed(name)
        try:
            environments.install(name)
        except environments.InstallError as error:
            print(f"environment {name}: {error}", flush=True)
        if not there:
            print(f"environment {name}: {time.monotonic() - start:.0f} s", flush=True)


def run_all(given, http, grpc, may_start):
    """Runs every client, prints what comes, and returns all rows."""
    rows = []
    for client in given.clients:
        found = run_client(client, http, grpc, may_start)
        show(client, found)
        rows += [{"client": client.name, **row} for row in found]
    return rows


def main(arguments):
    given = parse(arguments)
    environments.CACHE.mkdir(parents=True, exist_ok=True)
    install_all(given.clients)
    if given.install:
        return 0
    if given.server:
        rows = run_all(given, given.server.removeprefix("http://").rstrip("/"), given.grpc, False)
    else:
        with peregrine_server.server(["--tensor-parallel", "2"]) as started:
            rows = run_all(given, started.http, started.grpc, True)
    if given.json:
        pathlib.Path(given.json).write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = collections.Counter(row["outcome"] for row in rows)
    print(f"clients: {counts['passed']} passed, {counts['failed']} failed")
    return 1 if counts["failed"] or not counts["passed"] else 0

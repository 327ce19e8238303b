"""NVIDIA's aiperf, by each of its endpoint types that the server has."""

import json
import pathlib
import subprocess
import sys
import tempfile
import threading

import peregrine_server

from client_check.checks import (
    check,
    check_with_own_server,
    contains,
    equal,
    full_server,
    mortal_server,
    wait_until,
)

REQUESTS = 6
TOKENS = 8
LIMIT_S = 240


def profile(server, folder, endpoint_type, *arguments, tokens=TOKENS):
    """Runs aiperf, which leaves its files in `folder`."""
    command = [
        *[str(pathlib.Path(sys.executable).parent / "aiperf"), "profile", "--url", server.url],
        *["--model", "any", "--tokenizer", str(peregrine_server.ROOT / "crates/runtime/falcon-demo")],
        *["--endpoint-type", endpoint_type, "--request-count", str(REQUESTS), "--concurrency", "2"],
        *["--synthetic-input-tokens-mean", "16", "--output-tokens-mean", str(tokens), "--random-seed", "1"],
        *["--workers-max", "1", "--record-processors", "1", "--no-gpu-telemetry"],
        *["--ui", "none", "--artifact-dir", folder, *arguments],
    ]
    ended = subprocess.run(command, timeout=LIMIT_S, capture_output=True, text=True)
    print(ended.stdout, ended.stderr, file=sys.stderr)


def read(folder, name):
    return (pathlib.Path(folder) / name).read_text()


def errors(folder):
    """What each request ended with."""
    return [json.loads(line)["error"] for line in read(folder, "profile_export.jsonl").splitlines()]


def answered(server, endpoint_type, *arguments):
    """What aiperf says of a run in which every request was answered."""
    with tempfile.TemporaryDirectory() as folder:
        profile(server, folder, endpoint_type, *arguments)
        # It reads the server's metrics by itself.
        contains(read(folder, "server_metrics_export.json"), "tgi_request_count")
        run = json.loads(read(folder, "profile_export_aiperf.json"))
    equal(run["request_count"]["avg"], REQUESTS)
    equal(run["error_summary"], [])
    return run


@check
def huggingface_generate(server):
    answered(server, "huggingface-generate")


@check
def huggingface_generate_stream(server):
    run = answered(server, "huggingface-generate", "--streaming")
    assert run["time_to_first_token"]["avg"] > 0


@check
def openai_streams(server):
    for endpoint_type in ["chat", "completions"]:
        run = answered(server, endpoint_type, "--streaming", "--use-server-token-count", "--extra-inputs", "ignore_eos:true")
        assert run["time_to_first_token"]["avg"] > 0
        equal(run["output_sequence_length"]["avg"], TOKENS)


@check_with_own_server
def refused_requests_are_failures(_):
    with full_server() as server, server.full(), tempfile.TemporaryDirectory() as folder:
        profile(server, folder, "huggingface-generate", "--streaming")
        found = errors(folder)
        equal([error["code"] for error in found], [429] * REQUESTS)
        contains(found[0]["message"], "Model is overloaded")


@check_with_own_server
def a_broken_stream_is_a_failure(_):
    """A request that the model fails is no success with fewer tokens."""
    with mortal_server() as server, tempfile.TemporaryDirectory() as folder:
        arguments = (server, folder, "huggingface-generate", "--streaming", "--extra-inputs", "ignore_eos:true")
        run = threading.Thread(target=profile, args=arguments, kwargs={"tokens": 1500})
        run.start()
        wait_until(lambda: server.metric("peregrine_generated_tokens_total") > 0 or not run.is_alive(), LIMIT_S)
        server.kill_workers()
        run.join()
        assert all(errors(folder)), errors(folder)
        contains(errors(folder)[0]["message"], "Request failed during generation")

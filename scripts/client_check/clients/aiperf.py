"""NVIDIA's aiperf, by each of its endpoint types that the server has."""

import json
import pathlib
import subprocess
import sys
import tempfile

import peregrine_server

from client_check.checks import check, check_with_own_server, contains, equal, full_server

REQUESTS = 6
TOKENS = 8
LIMIT_S = 240


def profile(server, folder, endpoint_type, *arguments):
    """Runs aiperf, which leaves its files in `folder`."""
    command = [
        *[str(pathlib.Path(sys.executable).parent / "aiperf"), "profile", "--url", server.url],
        *["--model", "any", "--tokenizer", str(peregrine_server.ROOT / "crates/runtime/falcon-demo")],
        *["--endpoint-type", endpoint_type, "--request-count", str(REQUESTS), "--concurrency", "2"],
        *["--synthetic-input-tokens-mean", "16", "--output-tokens-mean", str(TOKENS), "--random-seed", "1"],
        *["--workers-max", "1", "--record-processors", "1", "--no-gpu-telemetry"],
        *["--ui", "none", "--artifact-dir", folder, *arguments],
    ]
    ended = subprocess.run(command, timeout=LIMIT_S, capture_output=True, text=True)
    print(ended.stdout, ended.stderr, file=sys.stderr)


def read(folder, name):
    return (pathlib.Path(folder) / name).read_text()


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
        errors = [json.loads(line)["error"] for line in read(folder, "profile_export.jsonl").splitlines()]
        equal([error["code"] for error in errors], [429] * REQUESTS)
        contains(errors[0]["message"], "Model is overloaded")

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


def profile(server, endpoint_type, *arguments):
    """Runs aiperf, and returns what it says of the run."""
    with tempfile.TemporaryDirectory() as folder:
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
        found = pathlib.Path(folder) / "profile_export_aiperf.json"
        assert found.exists(), f"exit code {ended.returncode}: {(ended.stdout + ended.stderr)[-400:]}"
        # It reads the server's metrics by itself.
        metrics = json.loads((pathlib.Path(folder) / "server_metrics_export.json").read_text())
        contains(json.dumps(metrics), "tgi_request_count")
        return json.loads(found.read_text())


def average(run, name):
    return run[name]["avg"]


def all_answered(run, tokens=None):
    equal(average(run, "request_count"), REQUESTS)
    equal(run.get("error_summary") or [], [])
    if tokens:
        equal(average(run, "output_sequence_length"), tokens)


@check
def huggingface_generate(server):
    all_answered(profile(server, "huggingface-generate"))


@check
def huggingface_generate_stream(server):
    run = profile(server, "huggingface-generate", "--streaming")
    all_answered(run)
    assert average(run, "time_to_first_token") > 0


@check
def chat_stream(server):
    run = profile(server, "chat", "--streaming", "--use-server-token-count", "--extra-inputs", "ignore_eos:true")
    all_answered(run, TOKENS)
    assert average(run, "time_to_first_token") > 0


@check
def completions_stream(server):
    arguments = ["--streaming", "--use-server-token-count", "--extra-inputs", "ignore_eos:true"]
    all_answered(profile(server, "completions", *arguments), TOKENS)


@check_with_own_server
def refused_requests_are_failures(_):
    with full_server() as server, server.full():
        run = profile(server, "huggingface-generate", "--streaming")
        (summary,) = run["error_summary"]
        equal((summary["count"], summary["error_details"]["code"]), (REQUESTS, 429))
        contains(summary["error_details"]["message"], "Model is overloaded")

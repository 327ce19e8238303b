"""guidellm's benchmark, over the routes of OpenAI that it knows."""

import json
import pathlib
import subprocess
import sys
import tempfile

import peregrine_server

from client_check.checks import check, check_with_own_server, contains, equal, full_server

REQUESTS = 4
TOKENS = 8
LIMIT_S = 300


def benchmark(server, *backend):
    """The report of one run."""
    tokenizer = peregrine_server.ROOT / "crates/runtime/falcon-demo"
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *[str(pathlib.Path(sys.executable).parent / "guidellm"), "run"],
            *["--backend", ",".join(["kind=openai_http", f"target={server.url}", *backend])],
            *["--tokenizer", f"kind=hf_auto,model={tokenizer}"],
            *["--profile", "kind=synchronous", "--constraint", f"kind=max_requests,count={REQUESTS}"],
            *["--data", f"kind=synthetic_text,prompt_tokens=16,output_tokens={TOKENS}"],
            *["--output", f"kind=json,path={folder}/report.json", "--disable-console"],
        ]
        ended = subprocess.run(command, timeout=LIMIT_S, capture_output=True, text=True)
        print(ended.stdout, ended.stderr, file=sys.stderr)
        found = pathlib.Path(folder) / "report.json"
        assert found.exists(), f"exit code {ended.returncode}: {(ended.stdout + ended.stderr)[-400:]}"
        return json.loads(found.read_text())["benchmarks"][0]


def answered(server, *backend):
    """Requires that every request was answered, as its own counts say: its exit code is 0 in any case."""
    run = benchmark(server, *backend)
    counts = {outcome: len(run["requests"][outcome]) for outcome in ["successful", "errored", "incomplete"]}
    equal(counts, {"successful": REQUESTS, "errored": 0, "incomplete": 0})
    for request in run["requests"]["successful"]:
        equal(request["output_metrics"]["text_tokens"], TOKENS)


@check
def chat(server):
    answered(server)


@check
def completions(server):
    answered(server, "request_format=/v1/completions")


@check_with_own_server
def refused_requests_are_failures(_):
    with full_server() as server, server.full():
        run = benchmark(server)
        equal(len(run["requests"]["errored"]), REQUESTS)
        contains(json.dumps(run["requests"]["errored"]), "429")

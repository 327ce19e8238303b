"""curl, as its users type it."""

import json
import subprocess

from client_check.authority import secured_server
from client_check.checks import MESSAGES, PROMPT, SEPARATORS, STORY, check, check_with_own_server, contains, equal


def version():
    return subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]


def post(url, body, *arguments):
    """What curl prints."""
    options = ["--silent", "--show-error", "--max-time", "60", "--header", "content-type: application/json", "--data-binary", "@-"]
    ended = subprocess.run(["curl", url, *options, *arguments], input=json.dumps(body).encode(), capture_output=True)
    assert ended.returncode == 0, f"exit code {ended.returncode}: {ended.stderr.decode()}"
    return ended.stdout.decode()


@check
def whole_answers(server):
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 4}}
    text = server.text(max_new_tokens=4)
    equal(json.loads(post(f"{server.url}/generate", body)), {"generated_text": text})
    for path in ["", "/", "/invocations"]:
        equal(json.loads(post(server.url + path, body)), [{"generated_text": text}])


@check
def streams(server):
    body = {"inputs": STORY, "parameters": {"max_new_tokens": 4}}
    text = post(f"{server.url}/generate_stream", body, "--no-buffer")
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    equal("".join(event["token"]["text"] for event in events), server.text(STORY, max_new_tokens=4))


@check
def openai_routes(server):
    answer = json.loads(post(f"{server.url}/v1/completions", {"prompt": PROMPT, "max_tokens": 4, "temperature": 0}))
    equal(answer["choices"][0]["text"], server.text(max_new_tokens=4))
    answer = json.loads(post(f"{server.url}/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 20, "temperature": 0}))
    contains(answer["choices"][0]["message"]["content"], "Rome")


@check
def a_large_body(server):
    """curl asks with Expect: 100-continue whether it may send a body of more than a megabyte."""
    body = {"inputs": SEPARATORS + " word" * 300_000, "parameters": {"max_new_tokens": 1, "truncate": 16}}
    status = post(f"{server.url}/generate", body, "--output", "answer", "--write-out", "%{http_code}")
    equal(status, "200")


@check
def http2(server):
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 4}}
    answer = json.loads(post(f"{server.url}/generate", body, "--http2-prior-knowledge"))
    equal(answer["generated_text"], server.text(max_new_tokens=4))


@check_with_own_server
def tls_and_keys(_):
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 4}}
    shown = ["--output", "answer", "--write-out", "%{http_code} %{http_version}"]
    with secured_server() as server:
        trusted = ["--cacert", server.ca]
        for header in [f"authorization: Bearer {server.key}", f"x-api-key: {server.key}"]:
            equal(post(f"{server.url}/generate", body, *trusted, "--header", header, *shown), "200 2")
        for key in [[], ["--header", f"x-api-key: {server.key}x"]]:
            equal(post(f"{server.url}/generate", body, *trusted, *key, *shown), "401 2")
        contains(post(f"{server.plain_url}/generate", body), "this port speaks TLS")

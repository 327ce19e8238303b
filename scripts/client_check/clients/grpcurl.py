"""grpcurl, if it is on this machine."""

import json
import subprocess

from client_check.checks import PROMPT, STORY, check, contains, equal

SERVICE = "peregrine.v1.Generation"


def grpcurl(*arguments):
    return subprocess.run(["grpcurl", "-plaintext", "-max-time", "60", *arguments], capture_output=True, text=True)


def version():
    return subprocess.run(["grpcurl", "-version"], capture_output=True, text=True).stderr.split()[-1]


@check
def lists_and_describes(server):
    contains(grpcurl(server.grpc, "list").stdout, SERVICE)
    contains(grpcurl(server.grpc, "describe", SERVICE).stdout, "rpc GenerateStream")


@check
def generate(server):
    body = json.dumps({"inputs": PROMPT, "parameters": {"max_new_tokens": 4}})
    answer = json.loads(grpcurl("-d", body, server.grpc, f"{SERVICE}/Generate").stdout)
    equal(answer["generatedText"], server.text(max_new_tokens=4))


@check
def generate_stream(server):
    body = json.dumps({"inputs": STORY, "parameters": {"max_new_tokens": 4}})
    contains(grpcurl("-d", body, server.grpc, f"{SERVICE}/GenerateStream").stdout, "generatedText")


@check
def validation(server):
    ended = grpcurl("-d", json.dumps({"inputs": ""}), server.grpc, f"{SERVICE}/Generate")
    contains(ended.stderr, "InvalidArgument")
    contains(ended.stderr, "`inputs` cannot be empty")

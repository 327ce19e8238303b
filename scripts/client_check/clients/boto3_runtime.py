"""boto3's sagemaker-runtime, pointed at the server by endpoint_url."""

import json

import boto3
import botocore
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError, ReadTimeoutError

from client_check.authority import secured_server
from client_check.checks import (
    MESSAGES,
    PROMPT,
    SEPARATORS,
    STORY,
    check,
    check_with_own_server,
    contains,
    equal,
    full_server,
    is_retry_after,
    mortal_server,
    own_server,
    raises,
    wait_until,
)

ENDPOINT = "jumpstart-dft-hf-llm-falcon-180b-bf16"
# All that JumpStart's notebooks send.
PAYLOAD = {
    "inputs": PROMPT,
    "parameters": {
        "do_sample": True,
        "max_new_tokens": 8,
        "repetition_penalty": 1.03,
        "return_full_text": True,
        "stop": ["<|endoftext|>", "</s>"],
        "seed": 7,
        "temperature": 0.8,
        "top_k": 50,
        "top_p": 0.9,
        "truncate": 100,
        "typical_p": 0.95,
        "watermark": False,
        "details": True,
        "decoder_input_details": True,
        "no_repeat_ngram_size": 3,
        "num_beams": 4,
    },
}
LONG = {"inputs": STORY, "parameters": {"max_new_tokens": 1500, "ignore_eos": True}}


def client(server, attempts=1, **config):
    config = Config(retries={"total_max_attempts": attempts, "mode": "standard"}, **config)
    return boto3.client("sagemaker-runtime", endpoint_url=server.url, config=config)


def invoke(server, body, attempts=1, **arguments):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    arguments = {"EndpointName": ENDPOINT, "ContentType": "application/json", **arguments}
    return client(server, attempts).invoke_endpoint(Body=body, **arguments)


def stream(server, body, attempts=1, **arguments):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    arguments = {"EndpointName": ENDPOINT, "ContentType": "application/json", **arguments}
    return client(server, attempts).invoke_endpoint_with_response_stream(Body=body, **arguments)


def payload(answer):
    """The bytes of a stream's parts, joined."""
    return b"".join(event["PayloadPart"]["Bytes"] for event in answer["Body"])


def events(text):
    return [json.loads(line[5:]) for line in text.decode().splitlines() if line.startswith("data:")]


@check
def invoke_endpoint(server):
    answer = invoke(server, {"inputs": PROMPT, "parameters": {"max_new_tokens": 4}})
    equal(json.loads(answer["Body"].read()), [{"generated_text": server.text(max_new_tokens=4)}])
    equal(answer["ContentType"], "application/json")
    assert answer["ResponseMetadata"]["RequestId"]


@check
def payload_of_jumpstart(server):
    (answer,) = json.loads(invoke(server, PAYLOAD)["Body"].read())
    assert answer["generated_text"].startswith(PROMPT), answer
    equal(answer["details"]["seed"], 7)
    assert answer["details"]["prefill"][0]["logprob"] is None
    equal(answer, json.loads(invoke(server, PAYLOAD)["Body"].read())[0])


@check
def best_of(server):
    body = {"inputs": STORY, "parameters": {"do_sample": True, "best_of": 2, "details": True, "max_new_tokens": 4}}
    (answer,) = json.loads(invoke(server, body)["Body"].read())
    equal(len(answer["details"]["best_of_sequences"]), 1)


@check
def invoke_by_the_variable_of_the_environment(server):
    unsigned = Config(signature_version=botocore.UNSIGNED)
    answer = boto3.client("sagemaker-runtime", config=unsigned).invoke_endpoint(
        EndpointName="other", ContentType="application/json", Body=json.dumps({"inputs": PROMPT})
    )
    equal(json.loads(answer["Body"].read())[0]["generated_text"], server.text())


@check
def other_arguments_of_invoke_endpoint(server):
    optional = {
        "Accept": "application/json",
        "CustomAttributes": "a=b",
        "TargetModel": "a.tar.gz",
        "TargetVariant": "AllTraffic",
        "InferenceId": "id-1",
        "InferenceComponentName": "component",
    }
    answer = invoke(server, {"inputs": PROMPT, "parameters": {"max_new_tokens": 1}}, **optional)
    equal(len(json.loads(answer["Body"].read())), 1)


@check
def chat_and_completion_bodies(server):
    answer = json.loads(invoke(server, {"messages": MESSAGES, "max_tokens": 20, "temperature": 0})["Body"].read())
    contains(answer["choices"][0]["message"]["content"], "Rome")
    answer = json.loads(invoke(server, {"prompt": PROMPT, "max_tokens": 4, "temperature": 0})["Body"].read())
    equal(answer["choices"][0]["text"], server.text(max_new_tokens=4))


@check
def with_response_stream(server):
    body = {"inputs": STORY, "parameters": {"max_new_tokens": 8, "details": True}, "stream": True}
    answer = stream(server, body)
    equal(answer["ContentType"], "text/event-stream")
    text = payload(answer)
    assert b"[DONE]" not in text
    *_, last = found = events(text)
    expected = server.text(STORY, max_new_tokens=8)
    equal(last["generated_text"], expected)
    equal("".join(event["token"]["text"] for event in found), expected)
    equal(last["details"]["generated_tokens"], 8)


@check
def with_response_stream_and_separators(server):
    body = {"inputs": SEPARATORS, "parameters": {"max_new_tokens": 1, "return_full_text": True}, "stream": True}
    contains(events(payload(stream(server, body)))[-1]["generated_text"], SEPARATORS)


@check
def chat_with_response_stream(server):
    body = {"messages": MESSAGES, "max_tokens": 20, "temperature": 0, "stream": True}
    text = payload(stream(server, body)).replace(b"data: [DONE]\n", b"")
    deltas = [choice["delta"].get("content") or "" for event in events(text) for choice in event["choices"]]
    contains("".join(deltas), "Rome")


def is_validation(error, text):
    """As SageMaker says it when a container answers 422."""
    response = error.response
    equal(response["Error"]["Code"], "ModelError")
    equal(response["ResponseMetadata"]["HTTPStatusCode"], 424)
    equal(response["OriginalStatusCode"], 422)
    original = json.loads(response["OriginalMessage"])
    equal(original["error_type"], "validation")
    contains(original["error"], text)
    contains(response["Error"]["Message"], text)


@check
def validation(server):
    errors = client(server).exceptions
    body = {"inputs": PROMPT, "parameters": {"top_p": 1.0}}
    with raises(errors.ModelError) as caught:
        invoke(server, body)
    is_validation(caught[0], "`top_p` must be > 0.0 and < 1.0")
    with raises(errors.ModelError) as caught:
        stream(server, {**body, "stream": True})
    is_validation(caught[0], "`top_p` must be > 0.0 and < 1.0")


@check
def too_long(server):
    with raises(client(server).exceptions.ModelError) as caught:
        invoke(server, {"inputs": "word " * 5000})
    is_validation(caught[0], "`inputs`")


@check
def no_json(server):
    """Not tried again, and with a text."""
    for send in (invoke, stream):
        try:
            send(server, b"{", attempts=3)
        except ClientError as error:
            assert error.response["Error"]["Message"], error.response
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] in (400, 424), error.response
            equal(error.response["ResponseMetadata"].get("RetryAttempts", 0), 0)
        else:
            raise AssertionError("taken")


@check
def async_invocations_are_refused(server):
    inference = client(server)
    with raises(inference.exceptions.ValidationError) as caught:
        inference.invoke_endpoint_async(EndpointName=ENDPOINT, InputLocation="s3://bucket/key")
    assert caught[0].response["Error"]["Message"], caught[0].response


@check_with_own_server
def overloaded(_):
    with full_server() as server, server.full():
        for send in (invoke, stream):
            with raises(ClientError) as caught:
                send(server, {"inputs": "a"}, attempts=2)
            response = caught[0].response
            equal(response["Error"]["Code"], "ThrottlingException")
            contains(response["Error"]["Message"], "Model is overloaded")
            metadata = response["ResponseMetadata"]
            equal((metadata["HTTPStatusCode"], metadata["RetryAttempts"]), (429, 1))
            is_retry_after(metadata["HTTPHeaders"].get("retry-after"))
            assert int(metadata["HTTPHeaders"]["x-amz-retry-after"]) > 0


@check_with_own_server
def a_timeout_leaves_nothing_running(_):
    """A client that has given up, without a stream, ends its request on the server."""
    with own_server() as server:
        with server.stopped():
            with raises(ReadTimeoutError):
                client(server, read_timeout=1).invoke_endpoint(
                    EndpointName=ENDPOINT, ContentType="application/json", Body=json.dumps(LONG)
                )
        wait_until(lambda: server.metric("tgi_batch_current_size") + server.metric("tgi_queue_size") == 0)
        assert server.metric("peregrine_generated_tokens_total") < 1000


@check_with_own_server
def model_fails_in_a_stream(_):
    with mortal_server() as server:
        parts = iter(stream(server, {**LONG, "stream": True})["Body"])
        next(parts)
        server.kill_workers()
        with raises(EventStreamError, "Request failed during generation") as caught:
            list(parts)
        equal(caught[0].response["Error"]["Code"], "ModelStreamError")


@check_with_own_server
def tls_and_keys(_):
    """A key beside the signature, as docs/security.md has it."""
    with secured_server() as server:

        def ask(key):
            runtime = boto3.client("sagemaker-runtime", endpoint_url=server.url, verify=server.ca)
            if key:
                runtime.meta.events.register(
                    "before-sign.sagemaker-runtime.*", lambda request, **_: request.headers.add_header("x-api-key", key)
                )
            body = json.dumps({"inputs": PROMPT, "parameters": {"max_new_tokens": 1}})
            return runtime.invoke_endpoint(EndpointName=ENDPOINT, ContentType="application/json", Body=body)

        assert json.load(ask(server.key)["Body"])[0]["generated_text"]
        for key in [None, server.key + "x"]:
            with raises(ClientError, "AccessDeniedException", "key", derived=True):
                ask(key)

"""The bytes of streams and errors, read from a socket, and what no client shows."""

import contextlib
import json
import platform
import socket

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
)


def version():
    """Python's, whose sockets these are."""
    return platform.python_version()


STREAM = {"inputs": STORY, "parameters": {"max_new_tokens": 4, "details": True}}


@contextlib.contextmanager
def posted(server, path, body):
    """Posts JSON over a socket; yields the head of the answer, and an iterator over the chunks of its body."""
    host, port = server.url.removeprefix("http://").rsplit(":", 1)
    data = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", f"Content-Length: {len(data)}"]
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode() + data)
        with connection.makefile("rb") as answer:
            head = read_head(answer)
            is_chunked = b"transfer-encoding: chunked" in head
            yield head, chunks(answer) if is_chunked else iter(answer.read, b"")


def read_head(answer):
    """Status and headers, in lower case."""
    head = b""
    for line in iter(answer.readline, b"\r\n"):
        assert line, f"the connection ended in the head: {head!r}"
        head += line.lower()
    return head


def chunks(answer):
    """The chunks of a chunked body. One that is cut off ends without the last."""
    while size := int(answer.readline() or b"0", 16):
        yield answer.read(size)
        answer.readline()


def status(head):
    return int(head.split()[1])


def is_stream(head):
    return b"content-type: text/event-stream" in head


def events(server, path, body):
    """The data of each event of a stream, after a check of how it is framed."""
    with posted(server, path, body) as (head, parts):
        stream = b"".join(parts)
    equal((path, status(head)), (path, 200))
    assert is_stream(head), head
    framed(stream)
    return [block[6:] for block in stream.decode().split("\n\n") if block.startswith("data: ")]


def framed(stream):
    """Requires of a stream what all clients can read, and returns its blocks."""
    assert b"\r" not in stream, "a carriage return: vLLM's client finds no event, or half of them"
    assert stream.endswith(b"\n\n"), f"no blank line behind the last event, which openai then drops: {stream[-80:]!r}"
    blocks = stream.decode().removesuffix("\n\n").split("\n\n")
    for block in blocks:
        data = block.removeprefix("event: error\n")
        # A comment stands alone, as vLLM's client drops an event behind one; data has its space, which some clients cut off unseen.
        assert block == ":" or data.startswith("data: ") and "\n" not in data, f"neither a comment nor one line of data: {block!r}"
    return blocks


def ends_with_text(events):
    """The text that the last event of a TGI stream gives."""
    parsed = [json.loads(event) for event in events]
    assert all(event["generated_text"] is None and event["details"] is None for event in parsed[:-1])
    return parsed[-1]["generated_text"]


@check
def tgi_streams_are_framed(server):
    """And have no [DONE], which is no JSON."""
    for path, body in [("/generate_stream", STREAM), ("/", {**STREAM, "stream": True}), ("/invocations", {**STREAM, "stream": True})]:
        got = events(server, path, body)
        equal(len(got), 4)
        equal(ends_with_text(got), server.text(STORY, max_new_tokens=4))


@check
def openai_streams_are_framed_and_end_with_done(server):
    for path, body in [
        ("/v1/completions", {"prompt": STORY, "max_tokens": 4, "stream": True}),
        ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 4, "stream": True}),
    ]:
        got = events(server, path, body)
        equal(got[-1], "[DONE]")
        equal(got.count("[DONE]"), 1)
        for event in got[:-1]:
            assert isinstance(json.loads(event)["choices"], list), event


@check
def separators_are_escaped_in_events(server):
    body = {"inputs": SEPARATORS, "parameters": {"max_new_tokens": 1, "return_full_text": True}}
    for path in ["/generate_stream", "/", "/invocations"]:
        text = events(server, path, {**body, "stream": True})[-1]
        contains(text, "one\\u2028two\\u2029three\\u0085four")


@check
def a_stream_may_be_asked_for_where_whole_answers_are_given(server):
    """A client that posts `stream: true` to /generate must not get JSON, which it would read as an empty stream."""
    with posted(server, "/generate", {**STREAM, "stream": True}) as (head, _):
        assert is_stream(head) or status(head) in (400, 422), head


@check
def tgi_errors_are_json(server):
    """Bodies of errors of TGI's routes, those of the framework too."""
    cases = [
        ({"inputs": "", "parameters": {}}, 422, "Input validation error: `inputs` cannot be empty"),
        ({"inputs": "a", "parameters": {"top_p": 1.0}}, 422, "`top_p` must be > 0.0 and < 1.0"),
        ({"inputs": 7}, 422, ""),
        (b"{", 400, ""),
    ]
    for path in ["/", "/generate", "/generate_stream", "/invocations"]:
        for body, status, text in cases:
            got, headers, answer = server.request(path, body)
            equal((path, got), (path, status))
            contains(headers["content-type"], "application/json")
            contains(json.loads(answer)["error"], text)
            assert json.loads(answer)["error_type"], answer


@check
def openai_errors_are_objects(server):
    bodies = {"/v1/completions": {"prompt": "a"}, "/v1/chat/completions": {"messages": MESSAGES}}
    for path, body in bodies.items():
        for wrong in [{**body, "max_tokens": 0}, {**body, "temperature": -1}, {**body, "n": "two"}, {}, b"{"]:
            status, headers, answer = server.request(path, wrong)
            assert status in (400, 422), (path, wrong, status)
            contains(headers["content-type"], "application/json")
            answer = json.loads(answer)
            assert {"message", "type", "param", "code"} <= set(answer["error"]), answer
            assert answer["error"]["message"] and answer["error_type"], answer


@check
def unknown_routes_are_not_found(server):
    status, _, answer = server.request("/v1/responses", {"input": "a"})
    equal(status, 404)
    assert json.loads(answer)["error"]["message"], answer
    status, _, answer = server.request("/nope", {"inputs": "a"})
    equal(status, 404)
    assert isinstance(json.loads(answer)["error"], str), answer


@check
def health_is_asked_in_many_ways(server):
    for path in ["/health", "/ping", "/"]:
        equal((path, server.request(path)[0]), (path, 200))
    equal(server.request("/metrics", method="HEAD")[0], 200)


@check
def info_and_models(server):
    info = json.loads(server.request("/info")[2])
    assert info["model_id"] and info["max_total_tokens"], info
    models = json.loads(server.request("/v1/models")[2])
    equal(models["object"], "list")
    assert models["data"][0]["id"] and models["data"][0]["root"], models


@check
def unknown_and_null_keys_are_ignored(server):
    expected = server.text(max_new_tokens=2)
    parameters = {"max_new_tokens": 2, "no_repeat_ngram_size": 3, "sagemaker_base_url": "x", "seed": None, "top_k": None}
    body = {"inputs": PROMPT, "parameters": parameters, "tool_prompt": None}
    equal(json.loads(server.request("/", body)[2])[0]["generated_text"], expected)
    # null in place of a value that has a default.
    nulls = dict.fromkeys(["logprobs", "n", "tools", "stop", "user", "seed", "stream", "stream_options", "temperature", "top_p"])
    unknown = {"service_tier": "auto", "store": False, "metadata": {}, "repetition_penalty": 1.0, "model": "any"}
    body = {**nulls, **unknown, "max_tokens": 2}
    status, _, answer = server.request("/v1/completions", {**body, "prompt": PROMPT})
    equal((status, json.loads(answer).get("error")), (200, None))
    equal(json.loads(answer)["choices"][0]["text"], expected)
    status, _, answer = server.request("/v1/chat/completions", {**body, "messages": [{**MESSAGES[0], "name": None}]})
    equal((status, json.loads(answer).get("error")), (200, None))


@check
def end_of_text_can_be_ignored(server):
    """Benchmarks rely on it."""
    for path, body in [
        ("/v1/completions", {"prompt": PROMPT}),
        ("/v1/chat/completions", {"messages": MESSAGES}),
    ]:
        answer = json.loads(server.request(path, {**body, "max_tokens": 100, "ignore_eos": True, "stop": []})[2])
        equal(answer["usage"]["completion_tokens"], 100)
        equal(answer["choices"][0]["finish_reason"], "length")


@check_with_own_server
def overload_says_when_to_come_back(_):
    with full_server() as server, server.full():
        for path, body in [
            ("/", {"inputs": "a"}),
            ("/generate", {"inputs": "a"}),
            ("/generate_stream", {"inputs": "a"}),
            ("/invocations", {"inputs": "a"}),
            ("/v1/completions", {"prompt": "a"}),
            ("/v1/chat/completions", {"messages": MESSAGES}),
        ]:
            status, headers, _ = server.request(path, body)
            equal((path, status), (path, 429))
            is_retry_after(headers["retry-after"])


@check_with_own_server
def a_broken_stream_ends_with_an_error_event(_):
    long = {"inputs": STORY, "parameters": {"max_new_tokens": 1500, "ignore_eos": True}, "stream": True}
    for path, body in [
        ("/generate_stream", long),
        ("/", long),
        ("/v1/completions", {"prompt": STORY, "max_tokens": 1500, "ignore_eos": True, "stream": True}),
        ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 1500, "ignore_eos": True, "stream": True}),
    ]:
        with mortal_server() as server:
            breaks_after_first_event(server, path, body)


@check_with_own_server
def a_stream_goes_on_when_the_model_is_killed(_):
    long = {"inputs": STORY, "parameters": {"max_new_tokens": 1500, "ignore_eos": True}, "stream": True}
    with own_server() as server:
        undisturbed = streamed(server, long)
        assert streamed(server, long, during=server.kill_workers) == undisturbed
        equal(server.metric("peregrine_recoveries_total"), 1)


def streamed(server, body, during=None):
    """The events of a stream; something may happen once it has begun."""
    with posted(server, "/generate_stream", body) as (head, parts):
        equal(status(head), 200)
        stream = next(parts)
        if during:
            during()
        return framed(stream + b"".join(parts))


def breaks_after_first_event(server, path, body):
    """Kills the model while a stream runs, and requires an error event at its end."""
    with posted(server, path, body) as (head, parts):
        equal((path, status(head)), (path, 200))
        stream = next(parts)
        server.kill_workers()
        stream += b"".join(parts)
    event, data = framed(stream)[-1].split("\n")
    equal(event, "event: error")
    error = json.loads(data.removeprefix("data: "))
    equal(error["error_type"], "generation")
    contains(error["error"]["message"] if path.startswith("/v1") else error["error"], "worker ended")

"""TGI's own client."""

import asyncio

from text_generation import AsyncClient, Client
from text_generation.errors import (
    GenerationError,
    NotFoundError,
    OverloadedError,
    ValidationError,
)

from client_check.checks import (
    MESSAGES,
    PROMPT,
    SEPARATORS,
    STORY,
    after,
    check,
    check_with_own_server,
    contains,
    equal,
    full_server,
    mortal_server,
    raises,
)


def client(server, path=""):
    return Client(server.url + path, timeout=60)


@check
def generate(server):
    for path in ["", "/invocations"]:
        answer = client(server, path).generate(PROMPT, max_new_tokens=4, decoder_input_details=True, top_n_tokens=2)
        equal(answer.generated_text, server.text(max_new_tokens=4))
        equal((answer.details.finish_reason.value, answer.details.generated_tokens), ("length", 4))
        equal((len(answer.details.tokens), len(answer.details.top_tokens)), (4, 4))
        assert answer.details.prefill and answer.details.prefill[0].logprob is None


@check
def generate_with_sampling(server):
    sampling = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 50, "typical_p": 0.95, "seed": 7}
    found = [client(server).generate(STORY, max_new_tokens=8, repetition_penalty=1.1, **sampling) for _ in range(2)]
    equal(found[0].generated_text, found[1].generated_text)
    equal(found[0].details.seed, 7)


@check
def best_of(server):
    answer = client(server).generate(STORY, max_new_tokens=4, do_sample=True, best_of=2)
    equal(len(answer.details.best_of_sequences), 1)


@check
def stop_stays_in_the_text(server):
    answer = client(server).generate(PROMPT, max_new_tokens=50, stop_sequences=["Rom"])
    equal((answer.generated_text[-3:], answer.details.finish_reason.value), ("Rom", "stop_sequence"))


@check
def generate_stream(server):
    *_, last = found = list(client(server).generate_stream(STORY, max_new_tokens=8))
    expected = server.text(STORY, max_new_tokens=8)
    equal("".join(answer.token.text for answer in found), expected)
    equal((last.generated_text, last.details.generated_tokens), (expected, 8))


@check
def generate_stream_with_separators(server):
    *_, last = client(server).generate_stream(SEPARATORS, max_new_tokens=1, return_full_text=True)
    contains(last.generated_text, SEPARATORS)


@check
def chat(server):
    answer = client(server).chat(MESSAGES, max_tokens=20, temperature=0, seed=1)
    contains(answer.choices[0].message.content, "Rome")
    assert answer.usage["completion_tokens"]


@check
def chat_streams_cannot_be_read_by_the_client(server):
    """Its fault: it wants role and tool_calls in every delta, trips over its own error where there are none, and takes [DONE] for JSON."""
    with raises(AttributeError, "'status'"):
        list(client(server).chat(MESSAGES, max_tokens=4, stream=True))


@check
def asynchronous(server):
    async def ask():
        inference = AsyncClient(server.url, timeout=60)
        whole = await inference.generate(STORY, max_new_tokens=8)
        parts = [answer.token.text async for answer in inference.generate_stream(STORY, max_new_tokens=8)]
        return whole.generated_text, "".join(parts)

    expected = server.text(STORY, max_new_tokens=8)
    equal(asyncio.run(ask()), (expected, expected))


@check
def validation(server):
    """What the client does not check itself."""
    for arguments in [{"max_new_tokens": 5000}, {"truncate": 100_000}, {"stop_sequences": list("abcde")}]:
        with raises(ValidationError, "Input validation error"):
            client(server).generate(PROMPT, **arguments)
        with raises(ValidationError, "Input validation error"):
            list(client(server).generate_stream(PROMPT, **arguments))


@check
def too_long(server):
    with raises(ValidationError, "`inputs`"):
        client(server).generate("word " * 5000)


@check
def unknown_route(server):
    with raises(NotFoundError, "/nope"):
        client(server, "/nope").generate(PROMPT)


@check
def chat_validation(server):
    with raises(ValidationError, "temperature"):
        client(server).chat(MESSAGES, temperature=-1.0)


@check_with_own_server
def overloaded(_):
    with full_server() as server, server.full():
        with raises(OverloadedError, "Model is overloaded"):
            client(server).generate(PROMPT)
        with raises(OverloadedError, "Model is overloaded"):
            list(client(server).generate_stream(PROMPT))


@check_with_own_server
def model_fails(_):
    with mortal_server() as server:
        with server.stopped():
            after(1, server.kill_workers)
            with raises(GenerationError, "Request failed during generation"):
                client(server).generate(STORY, max_new_tokens=1500)


@check_with_own_server
def model_fails_in_a_stream(_):
    with mortal_server() as server:
        stream = client(server).generate_stream(STORY, max_new_tokens=1500)
        next(stream)
        server.kill_workers()
        with raises(GenerationError, "Request failed during generation"):
            list(stream)

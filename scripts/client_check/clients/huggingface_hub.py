"""huggingface_hub's InferenceClient, given a URL."""

import asyncio

from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import (
    BadRequestError,
    GenerationError,
    HfHubHTTPError,
    OverloadedError,
    UnknownError,
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

LONG = {"max_new_tokens": 1500}


def client(server, path=""):
    return InferenceClient(server.url + path, timeout=60)


@check
def text_generation(server):
    for path in ["", "/", "/invocations", "/generate"]:
        equal(client(server, path).text_generation(PROMPT, max_new_tokens=4), server.text(max_new_tokens=4))


@check
def text_generation_with_details(server):
    answer = client(server).text_generation(PROMPT, max_new_tokens=4, details=True, decoder_input_details=True, top_n_tokens=2)
    equal(answer.generated_text, server.text(max_new_tokens=4))
    equal((answer.details.finish_reason, answer.details.generated_tokens), ("length", 4))
    equal(len(answer.details.tokens), 4)
    assert answer.details.prefill


@check
def text_generation_with_sampling(server):
    sampling = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 50, "typical_p": 0.95, "seed": 2**64 - 1}
    found = [client(server).text_generation(STORY, max_new_tokens=8, repetition_penalty=1.1, **sampling) for _ in range(2)]
    equal(found[0], found[1])


@check
def stop_stays_in_the_text(server):
    equal(client(server).text_generation(PROMPT, max_new_tokens=50, stop=["Rom"])[-3:], "Rom")


@check
def streams(server):
    expected = server.text(STORY, max_new_tokens=8)
    for path in ["", "/generate_stream", "/invocations"]:
        inference = client(server, path)
        equal("".join(inference.text_generation(STORY, max_new_tokens=8, stream=True)), expected)


@check
def streams_have_the_text_of_special_tokens(server):
    """The client's fault, which passes on the text of every token: whole answers have none of it."""
    inference = client(server)
    text = "".join(inference.text_generation(PROMPT, max_new_tokens=100, stream=True))
    equal(text, server.text(max_new_tokens=100) + "<|endoftext|>")


@check
def streams_with_details(server):
    inference = client(server)
    *_, last = inference.text_generation(STORY, max_new_tokens=8, stream=True, details=True)
    equal(last.generated_text, server.text(STORY, max_new_tokens=8))
    equal((last.details.finish_reason, last.details.generated_tokens), ("length", 8))


@check
def streams_with_separators(server):
    inference = client(server)
    *_, last = inference.text_generation(SEPARATORS, max_new_tokens=1, stream=True, details=True, return_full_text=True)
    contains(last.generated_text, SEPARATORS)


@check
def a_stream_of_generate_is_not_empty(server):
    """The client posts stream: true to whatever URL it was given; JSON would be an empty stream to it."""
    inference = client(server, "/generate")
    try:
        equal("".join(inference.text_generation(STORY, max_new_tokens=8, stream=True)), server.text(STORY, max_new_tokens=8))
    except (BadRequestError, ValidationError, HfHubHTTPError) as error:
        contains(str(error), "stream")


@check
def chat(server):
    for path in ["", "/v1"]:
        answer = client(server, path).chat_completion(MESSAGES, max_tokens=20, temperature=0, seed=1, logprobs=True, top_logprobs=2)
        contains(answer.choices[0].message.content, "Rome")
        equal(answer.choices[0].message.role, "assistant")
        assert answer.usage.prompt_tokens and answer.usage.completion_tokens
        equal(len(answer.choices[0].logprobs.content), answer.usage.completion_tokens)


@check
def chat_streams(server):
    inference = client(server)
    found = list(inference.chat_completion(MESSAGES, max_tokens=20, temperature=0, stream=True, stream_options={"include_usage": True}))
    contains("".join(choice.delta.content or "" for chunk in found for choice in chunk.choices), "Rome")
    assert found[-1].usage.completion_tokens


@check
def asynchronous(server):
    async def ask():
        async with AsyncInferenceClient(server.url, timeout=60) as inference:
            whole = await inference.text_generation(STORY, max_new_tokens=8)
            parts = [part async for part in await inference.text_generation(STORY, max_new_tokens=8, stream=True)]
            return whole, "".join(parts)

    expected = server.text(STORY, max_new_tokens=8)
    equal(asyncio.run(ask()), (expected, expected))


@check
def validation(server):
    inference = client(server)
    with raises(ValidationError, "`top_p` must be > 0.0 and < 1.0"):
        inference.text_generation(PROMPT, top_p=1.0)
    with raises(ValidationError, "`top_p` must be > 0.0 and < 1.0"):
        list(inference.text_generation(PROMPT, top_p=1.0, stream=True))


@check
def too_long(server):
    with raises(ValidationError, "`inputs`"):
        client(server).text_generation("word " * 5000)


@check
def chat_errors(server):
    inference = client(server)
    for stream in (False, True):
        try:
            list(inference.chat_completion(MESSAGES, temperature=-1, stream=stream))
        except HfHubHTTPError as error:
            contains(str(error), "temperature")
            assert error.response.status_code in (400, 422)
        else:
            raise AssertionError("taken")


@check
def unknown_route(server):
    with raises(UnknownError, "/nope"):
        client(server, "/nope").text_generation(PROMPT)


@check_with_own_server
def overloaded(_):
    with full_server() as server, server.full():
        inference = client(server)
        with raises(OverloadedError, "Model is overloaded"):
            inference.text_generation(PROMPT)
        with raises(OverloadedError, "Model is overloaded"):
            list(inference.text_generation(PROMPT, stream=True))
        with raises(HfHubHTTPError) as caught:
            inference.chat_completion(MESSAGES)
        equal(caught[0].response.status_code, 429)


@check_with_own_server
def model_fails(_):
    with mortal_server() as server:
        inference = client(server)
        with server.stopped():
            after(1, server.kill_workers)
            with raises(GenerationError, "Request failed during generation"):
                inference.text_generation(STORY, **LONG)


@check_with_own_server
def model_fails_in_a_stream(_):
    for chat in (False, True):
        with mortal_server() as server:
            inference = client(server)
            if chat:
                stream = inference.chat_completion(MESSAGES, max_tokens=1500, stream=True, extra_body={"ignore_eos": True})
            else:
                stream = inference.text_generation(STORY, **LONG, stream=True)
            stream = iter(stream)
            next(stream)
            server.kill_workers()
            with raises(GenerationError, "worker ended"):
                list(stream)

"""The openai client, pointed at the server by base_url."""

import asyncio
import functools
import ssl
import time

import openai

from client_check.authority import secured_server
from client_check.checks import (
    MESSAGES,
    PROMPT,
    QUESTION,
    SEPARATORS,
    STORY,
    after,
    check,
    check_with_own_server,
    contains,
    equal,
    full_server,
    is_retry_after,
    mortal_server,
    raises,
    wait_until,
)

LONG = {"max_tokens": 1500, "extra_body": {"ignore_eos": True}}


@functools.cache
def client(server, **options):
    """One for each kind: to make one takes longer than to use it."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", **{"max_retries": 0, "timeout": 60, **options})


def model(server):
    return client(server).models.list().data[0].id


def joined(chunks):
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


@check
def models(server):
    (found,) = client(server).models.list().data
    equal(found.object, "model")
    equal(client(server).models.retrieve(found.id).id, found.id)


@check
def unknown_model_of_the_list(server):
    with raises(openai.NotFoundError, "some/other"):
        client(server).models.retrieve("some/other")


@check
def completions(server):
    answer = client(server).completions.create(model=model(server), prompt=PROMPT, max_tokens=4, temperature=0, top_p=1)
    equal(answer.object, "text_completion")
    (choice,) = answer.choices
    equal((choice.text, choice.finish_reason), (server.text(max_new_tokens=4), "length"))
    equal(answer.usage.completion_tokens, 4)
    equal(answer.usage.total_tokens, answer.usage.prompt_tokens + 4)
    assert answer._request_id


@check
def completions_of_several_prompts(server):
    answer = client(server).completions.create(model=model(server), prompt=[PROMPT, STORY], max_tokens=4, temperature=0)
    equal([choice.index for choice in answer.choices], [0, 1])
    expected = [server.text(PROMPT, max_new_tokens=4), server.text(STORY, max_new_tokens=4)]
    equal([choice.text for choice in answer.choices], expected)


@check
def completions_with_logprobs(server):
    answer = client(server).completions.create(model=model(server), prompt=PROMPT, max_tokens=4, temperature=0, logprobs=2)
    logprobs = answer.choices[0].logprobs
    equal("".join(logprobs.tokens), answer.choices[0].text)
    equal(len(logprobs.token_logprobs), 4)
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert logprob <= 0 and len(top) >= 2 and abs(top[token] - logprob) < 1e-4, (token, logprob, top)


@check
def completions_that_echo(server):
    answer = client(server).completions.create(model=model(server), prompt=SEPARATORS, max_tokens=1, temperature=0, echo=True)
    assert answer.choices[0].text.startswith(SEPARATORS), answer


@check
def completions_stream(server):
    options = {"include_usage": True}
    found = list(
        client(server).completions.create(
            model=model(server), prompt=STORY, max_tokens=8, temperature=0, stream=True, stream_options=options
        )
    )
    equal("".join(choice.text for chunk in found for choice in chunk.choices), server.text(STORY, max_new_tokens=8))
    equal((found[-1].choices, found[-1].usage.completion_tokens), ([], 8))
    equal([choice.finish_reason for chunk in found for choice in chunk.choices][-1], "length")


@check
def stop_is_left_out(server):
    answer = client(server).completions.create(model=model(server), prompt=PROMPT, max_tokens=50, temperature=0, stop=["Rom"])
    assert "Rom" not in answer.choices[0].text
    equal(answer.choices[0].finish_reason, "stop")


@check
def chat(server):
    answer = client(server).chat.completions.create(model=model(server), messages=MESSAGES, max_completion_tokens=20, temperature=0)
    equal(answer.object, "chat.completion")
    (choice,) = answer.choices
    contains(choice.message.content, "Rome")
    assert "User:" not in choice.message.content, choice
    equal((choice.message.role, choice.finish_reason), ("assistant", "stop"))
    assert isinstance(answer.system_fingerprint, str) and isinstance(answer.created, int) and answer.id
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@check
def chat_with_content_as_parts(server):
    parts = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    create = client(server).chat.completions.create
    answers = [create(model="any", messages=messages, max_tokens=20, temperature=0) for messages in (MESSAGES, parts)]
    equal(answers[0].choices[0].message.content, answers[1].choices[0].message.content)


@check
def chat_of_several_turns(server):
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hello! How can I help you?"},
        *MESSAGES,
    ]
    answer = client(server).chat.completions.create(model="any", messages=messages, max_tokens=20, temperature=0)
    contains(answer.choices[0].message.content, "Rome")


@check
def chat_stream(server):
    options = {"include_usage": True}
    found = list(
        client(server).chat.completions.create(
            model=model(server), messages=MESSAGES, max_tokens=20, temperature=0, stream=True, stream_options=options
        )
    )
    equal({chunk.object for chunk in found}, {"chat.completion.chunk"})
    equal(found[0].choices[0].delta.role, "assistant")
    contains(joined(found), "Rome")
    equal(found[-2].choices[0].finish_reason, "stop")
    equal(found[-1].choices, [])
    assert found[-1].usage.completion_tokens


@check
def a_stream_that_was_read_is_a_success(server):
    """The client closes the connection behind [DONE], before the last chunk of the body."""
    dropped, success = 'tgi_request_failure{err="dropped"}', "tgi_request_success"
    before = [server.metric(name) for name in (dropped, success)]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as inference:
        list(inference.chat.completions.create(model="any", messages=MESSAGES, max_tokens=20, stream=True))
    wait_until(lambda: server.metric(success) == before[1] + 1)
    equal(server.metric(dropped), before[0])


@check
def chat_stream_helper(server):
    with client(server).chat.completions.stream(model="any", messages=MESSAGES, max_tokens=20, temperature=0) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        contains("".join(deltas), "Rome")
        contains(stream.get_final_completion().choices[0].message.content, "Rome")


@check
def chat_with_n(server):
    create = client(server).chat.completions.create
    arguments = {"model": "any", "messages": MESSAGES, "max_tokens": 8, "n": 2, "temperature": 1.5, "seed": 5}
    answer = create(**arguments)
    equal([choice.index for choice in answer.choices], [0, 1])
    chunks = list(create(**arguments, stream=True))
    for index in (0, 1):
        text = "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices if c.index == index)
        equal(text, answer.choices[index].message.content)


@check
def chat_with_logprobs(server):
    create = client(server).chat.completions.create
    answer = create(model="any", messages=MESSAGES, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3)
    found = answer.choices[0].logprobs.content
    equal(len(found), answer.usage.completion_tokens)
    for entry in found:
        equal(len(entry.top_logprobs), 3)
        equal((entry.top_logprobs[0].token, entry.top_logprobs[0].logprob), (entry.token, entry.logprob))
        equal(bytes(entry.bytes).decode(errors="replace"), entry.token)


@check
def seed_and_penalties(server):
    create = client(server).chat.completions.create
    arguments = {"temperature": 1.0, "seed": 3, "frequency_penalty": 0.5, "presence_penalty": -0.5, "user": "me", "max_tokens": 8}
    answers = [create(model="any", messages=MESSAGES, **arguments) for _ in range(2)]
    equal(answers[0].choices[0].message.content, answers[1].choices[0].message.content)


@check
def raw_response(server):
    raw = client(server).chat.completions.with_raw_response.create(model="any", messages=MESSAGES, max_tokens=1)
    assert raw.headers["x-request-id"] and raw.request_id == raw.headers["x-request-id"]
    equal(raw.parse()._request_id, raw.request_id)


@check
def asynchronous(server):
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as inference:
            create = inference.chat.completions.create
            stream = await create(model="any", messages=MESSAGES, max_tokens=20, temperature=0, stream=True)
            return joined([chunk async for chunk in stream])

    contains(asyncio.run(ask()), "Rome")


@check
def invalid(server):
    inference = client(server)
    for arguments in [{"temperature": -1}, {"max_tokens": 0}, {"n": 0}, {"top_p": 2}]:
        (name,) = arguments
        for stream in (False, True):
            with raises(openai.BadRequestError, "Error code: 400") as caught:
                inference.chat.completions.create(model="any", messages=MESSAGES, stream=stream, **arguments)
            contains(caught[0].body["message"], name)
            equal(caught[0].type, "invalid_request_error")


@check
def too_long(server):
    for create, arguments in [
        (client(server).completions.create, {"prompt": "word " * 5000}),
        (client(server).chat.completions.create, {"messages": [{"role": "user", "content": "word " * 5000}]}),
    ]:
        with raises(openai.BadRequestError, "maximum context length") as caught:
            create(model="any", **arguments)
        equal(caught[0].code, "context_length_exceeded")


@check
def unknown_routes(server):
    with raises(openai.NotFoundError) as caught:
        client(server).responses.create(model="any", input="a")
    assert caught[0].body["message"], caught[0].body
    with raises(openai.NotFoundError):
        client(server).embeddings.create(model="any", input="a")


@check_with_own_server
def overloaded(_):
    with full_server() as server, server.full():
        for stream in (False, True):
            with raises(openai.RateLimitError, "Error code: 429", "Model is overloaded") as caught:
                client(server).chat.completions.create(model="any", messages=MESSAGES, stream=stream)
            is_retry_after(caught[0].response.headers.get("retry-after"))


@check_with_own_server
def overloaded_is_tried_again(_):
    with full_server() as server:
        with server.full():
            started = time.monotonic()
            with raises(openai.RateLimitError):
                client(server, max_retries=1).chat.completions.create(model="any", messages=MESSAGES)
            # It waited as long as it was told.
            assert time.monotonic() - started >= 1
        answer = client(server, max_retries=2).chat.completions.create(model="any", messages=MESSAGES, max_tokens=20, temperature=0)
        contains(answer.choices[0].message.content, "Rome")


@check_with_own_server
def model_fails(_):
    with mortal_server() as server:
        with server.stopped():
            after(1, server.kill_workers)
            try:
                client(server).completions.create(model="any", prompt=STORY, **LONG)
            except openai.APIStatusError as error:
                contains(error.body["message"], "worker ended")
            else:
                raise AssertionError("answered")


@check_with_own_server
def model_fails_in_a_stream(_):
    for chat in (False, True):
        with mortal_server() as server:
            inference = client(server)
            if chat:
                stream = inference.chat.completions.create(model="any", messages=MESSAGES, stream=True, **LONG)
            else:
                stream = inference.completions.create(model="any", prompt=STORY, stream=True, **LONG)
            next(stream)
            server.kill_workers()
            with raises(openai.APIError, "worker ended"):
                list(stream)


@check_with_own_server
def tls_and_keys(_):
    with secured_server() as server:
        http = openai.DefaultHttpxClient(verify=ssl.create_default_context(cafile=server.ca))
        inference = openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, http_client=http, max_retries=0)
        assert inference.completions.create(model="any", prompt=PROMPT, max_tokens=1).choices[0].text
        with raises(openai.AuthenticationError, "key") as caught:
            inference.with_options(api_key=server.key + "x").models.list()
        equal(caught[0].code, "invalid_api_key")

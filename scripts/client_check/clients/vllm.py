"""The client of `vllm bench serve`: its request functions, from vLLM's own files, without what of vLLM needs torch."""

import asyncio
import importlib
import importlib.util
import sys
import types

import aiohttp

from client_check.checks import (
    PROMPT,
    QUESTION,
    STORY,
    check,
    check_with_own_server,
    contains,
    equal,
    full_server,
    mortal_server,
    wait_until,
)


def request_functions():
    """vllm.benchmarks.lib.endpoint_request_func, without vllm/__init__.py, which imports torch."""
    package = types.ModuleType("vllm")
    package.__path__ = list(importlib.util.find_spec("vllm").submodule_search_locations)
    sys.modules["vllm"] = package
    return importlib.import_module("vllm.benchmarks.lib.endpoint_request_func")


VLLM = request_functions()
PATHS = {"openai": "/v1/completions", "openai-chat": "/v1/chat/completions"}


def ask(server, backend, prompt, tokens, during=None):
    """One request as the benchmark sends it; `during` is called when its first tokens are there."""
    request = VLLM.RequestFuncInput(
        prompt=prompt,
        api_url=server.url + PATHS[backend],
        prompt_len=1,
        output_len=tokens,
        model="any",
        ignore_eos=True,
        request_id="request-1",
        # Without it the text is drawn: OpenAI's default is a temperature of 1.
        extra_body={"temperature": 0},
    )

    async def run():
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
            asked = asyncio.create_task(VLLM.ASYNC_REQUEST_FUNCS[backend](request, session))
            if during:
                await asyncio.to_thread(wait_until, lambda: server.metric("peregrine_generated_tokens_total") > 0)
                during()
            return await asked

    return asyncio.run(run())


@check
def completions(server):
    answer = ask(server, "openai", STORY, 16)
    assert answer.success, answer.error
    equal(answer.output_tokens, 16)
    equal(answer.generated_text, server.text(STORY, max_new_tokens=16))
    equal(answer.prompt_len, len(server.generate(STORY, max_new_tokens=1, decoder_input_details=True)["details"]["prefill"]))
    assert answer.ttft > 0 and answer.itl


@check
def chat(server):
    answer = ask(server, "openai-chat", QUESTION, 16)
    assert answer.success, answer.error
    equal(answer.output_tokens, 16)
    contains(answer.generated_text, "Rome")
    assert answer.ttft > 0 and answer.itl


@check
def refused(server):
    for backend in PATHS:
        answer = ask(server, backend, "word " * 5000, 16)
        equal((answer.success, answer.error), (False, "Bad Request"))


@check_with_own_server
def overloaded(_):
    with full_server() as server, server.full():
        for backend in PATHS:
            answer = ask(server, backend, PROMPT, 16)
            equal((answer.success, answer.error), (False, "Too Many Requests"))


@check_with_own_server
def a_broken_stream_is_a_failure(_):
    """A request that the model fails is no success with fewer tokens."""
    for backend in PATHS:
        with mortal_server() as server:
            answer = ask(server, backend, PROMPT, 1500, during=server.kill_workers)
            assert answer.ttft > 0, answer.error
            assert not answer.success, f"{answer.output_tokens} tokens: {answer.generated_text[-80:]!r}"

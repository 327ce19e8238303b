"""LangChain's OpenAI chat and completions."""

import openai
from langchain_openai import ChatOpenAI, OpenAI

from client_check.checks import (
    PROMPT,
    QUESTION,
    check,
    check_with_own_server,
    contains,
    equal,
    full_server,
    raises,
)


def chat(server, **arguments):
    arguments = {"model": "any", "temperature": 0, "max_tokens": 20, "max_retries": 0, "timeout": 60, **arguments}
    return ChatOpenAI(base_url=f"{server.url}/v1", api_key="none", **arguments)


def completions(server, **arguments):
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", model="any", temperature=0, max_tokens=4, max_retries=0, **arguments)


@check
def chat_invoke(server):
    answer = chat(server).invoke(QUESTION)
    contains(answer.content, "Rome")
    assert answer.usage_metadata["output_tokens"] and answer.response_metadata["finish_reason"] == "stop"


@check
def chat_stream(server):
    chunks = list(chat(server, stream_usage=True).stream(QUESTION))
    contains("".join(chunk.content for chunk in chunks), "Rome")
    assert sum((chunk.usage_metadata or {}).get("output_tokens", 0) for chunk in chunks)


@check
def chat_batch(server):
    for answer in chat(server).batch([QUESTION] * 4):
        contains(answer.content, "Rome")


@check
def chat_logprobs(server):
    answer = chat(server, logprobs=True, top_logprobs=2).invoke(QUESTION)
    assert answer.response_metadata["logprobs"]["content"]


@check
def chat_with_stop(server):
    assert "Rom" not in chat(server).invoke(QUESTION, stop=["Rom"]).content


@check
def llm_invoke_and_stream(server):
    expected = server.text(max_new_tokens=4)
    equal(completions(server).invoke(PROMPT), expected)
    equal("".join(completions(server).stream(PROMPT)), expected)


@check
def llm_batch(server):
    """Sends several prompts in one request."""
    expected = server.text(max_new_tokens=4)
    equal(completions(server).generate([PROMPT] * 3).generations[2][0].text, expected)


@check
def invalid(server):
    with raises(openai.BadRequestError, "top_p", derived=True):
        chat(server, top_p=2.0).invoke(QUESTION)


@check
def too_long(server):
    with raises(openai.BadRequestError, "maximum context length", derived=True):
        chat(server).invoke("word " * 5000)


@check_with_own_server
def overloaded(_):
    with full_server() as server, server.full():
        with raises(openai.RateLimitError, "Model is overloaded", derived=True):
            chat(server).invoke(QUESTION)

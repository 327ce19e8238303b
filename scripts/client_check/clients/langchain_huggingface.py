"""LangChain's Hugging Face endpoint and its chat."""

from huggingface_hub.errors import HfHubHTTPError, OverloadedError, ValidationError
from langchain_huggingface import ChatHuggingFace, HuggingFaceEndpoint

from client_check.checks import (
    PROMPT,
    QUESTION,
    SEPARATORS,
    STORY,
    check,
    check_with_own_server,
    contains,
    equal,
    full_server,
    raises,
)

# The client sends temperature 0.8, top_p and typical_p 0.95, if not told otherwise; do_sample is false.
DRAWN = {"temperature": 0.8, "top_p": 0.95, "typical_p": 0.95}


def endpoint(server, **arguments):
    arguments = {"max_new_tokens": 8, "seed": 3, "timeout": 60, **arguments}
    return HuggingFaceEndpoint(endpoint_url=server.url, task="text-generation", **arguments)


@check
def invoke(server):
    equal(endpoint(server).invoke(STORY), server.text(STORY, max_new_tokens=8, seed=3, **DRAWN))


@check
def stream(server):
    equal("".join(endpoint(server).stream(STORY)), server.text(STORY, max_new_tokens=8, seed=3, **DRAWN))


@check
def stream_with_separators(server):
    """Greedy and alone, the prompt comes back in the last event, which the client reads and drops."""
    assert "".join(endpoint(server, return_full_text=True).stream(SEPARATORS))


@check
def batch(server):
    expected = server.text(STORY, max_new_tokens=8, seed=3, **DRAWN)
    equal(endpoint(server).batch([STORY] * 3), [expected] * 3)


@check
def stop_is_cut_off_by_the_client(server):
    answer = endpoint(server, max_new_tokens=50, temperature=0.01).invoke(PROMPT, stop=["Rom"])
    assert not answer.endswith("Rom"), answer


@check
def chat(server):
    model = ChatHuggingFace(llm=endpoint(server), model_id="any", temperature=0.01, max_tokens=20)
    contains(model.invoke(QUESTION).content, "Rome")
    contains("".join(chunk.content for chunk in model.stream(QUESTION)), "Rome")


@check
def validation(server):
    with raises(ValidationError, "`top_p` must be > 0.0 and < 1.0"):
        endpoint(server, top_p=1.0).invoke(PROMPT)
    with raises(ValidationError, "`top_p` must be > 0.0 and < 1.0"):
        list(endpoint(server, top_p=1.0).stream(PROMPT))


@check
def too_long(server):
    with raises(ValidationError, "`inputs`"):
        endpoint(server).invoke("word " * 5000)


@check_with_own_server
def overloaded(_):
    with full_server() as server, server.full():
        with raises(OverloadedError, "Model is overloaded"):
            endpoint(server).invoke(PROMPT)
        with raises(HfHubHTTPError):
            ChatHuggingFace(llm=endpoint(server), model_id="any").invoke(QUESTION)

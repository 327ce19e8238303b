"""litellm, by each of its providers that can be pointed at a server."""

import litellm

from client_check.checks import (
    MESSAGES,
    STORY,
    check,
    check_with_own_server,
    contains,
    equal,
    full_server,
    raises,
)

litellm.telemetry = False
litellm.suppress_debug_info = True


def chat(server, model, **arguments):
    arguments = {"max_tokens": 20, "temperature": 0, "max_retries": 0, "timeout": 60, **arguments}
    return litellm.completion(model=model, messages=MESSAGES, api_base=f"{server.url}/v1", api_key="none", **arguments)


def sagemaker(server, model="sagemaker/any", messages=None, **arguments):
    route = "invocations-response-stream" if arguments.get("stream") else "invocations"
    return litellm.completion(
        model=model,
        messages=messages or [{"role": "user", "content": STORY}],
        sagemaker_base_url=f"{server.url}/endpoints/any/{route}",
        **{"max_tokens": 8, "max_retries": 0, "timeout": 60, **arguments},
    )


def joined(stream):
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


@check
def openai(server):
    for model in ["openai/any", "hosted_vllm/any"]:
        answer = chat(server, model)
        contains(answer.choices[0].message.content, "Rome")
        equal(answer.choices[0].finish_reason, "stop")
        assert answer.usage.completion_tokens
        contains(joined(chat(server, model, stream=True)), "Rome")


@check
def huggingface(server):
    contains(chat(server, "huggingface/any").choices[0].message.content, "Rome")
    contains(joined(chat(server, "huggingface/any", stream=True)), "Rome")


@check
def text_completion(server):
    arguments = {"api_base": f"{server.url}/v1", "api_key": "none", "max_tokens": 8, "temperature": 0, "max_retries": 0}
    answer = litellm.text_completion(model="text-completion-openai/any", prompt=STORY, **arguments)
    equal(answer.choices[0].text, server.text(STORY, max_new_tokens=8))
    stream = litellm.text_completion(model="text-completion-openai/any", prompt=STORY, stream=True, **arguments)
    equal("".join(choice.text or "" for chunk in stream for choice in chunk.choices), server.text(STORY, max_new_tokens=8))


@check
def sagemaker_invocations(server):
    contains(server.text(STORY, max_new_tokens=8), sagemaker(server).choices[0].message.content.strip())


@check
def sagemaker_stream(server):
    equal(joined(sagemaker(server, stream=True)).strip(), server.text(STORY, max_new_tokens=8).strip())


@check
def sagemaker_chat(server):
    arguments = {"model": "sagemaker_chat/any", "messages": MESSAGES, "max_tokens": 20, "temperature": 0}
    contains(sagemaker(server, **arguments).choices[0].message.content, "Rome")
    contains(joined(sagemaker(server, **arguments, stream=True)), "Rome")


@check
def invalid(server):
    with raises(litellm.BadRequestError, "temperature"):
        chat(server, "openai/any", temperature=-1)


@check
def too_long(server):
    messages = [{"role": "user", "content": "word " * 5000}]
    with raises(litellm.ContextWindowExceededError):
        litellm.completion(model="openai/any", messages=messages, api_base=f"{server.url}/v1", api_key="none", max_retries=0)


@check_with_own_server
def overloaded(_):
    with full_server() as server, server.full():
        for model in ["openai/any", "hosted_vllm/any", "huggingface/any"]:
            with raises(litellm.RateLimitError, "Model is overloaded"):
                chat(server, model)
        # Its fault: of SageMaker's errors it keeps the text alone, and makes a 503 of it.
        with raises(litellm.ServiceUnavailableError, "429 Too Many Requests"):
            sagemaker(server)

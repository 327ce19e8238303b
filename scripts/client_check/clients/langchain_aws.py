"""LangChain's SageMaker endpoint."""

import json

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from langchain_aws.llms.sagemaker_endpoint import LLMContentHandler, SagemakerEndpoint

from client_check.checks import (
    PROMPT,
    STORY,
    check,
    check_with_own_server,
    equal,
    full_server,
    raises,
)


class Handler(LLMContentHandler):
    """As the documentation of LangChain shows it for TGI."""

    content_type = "application/json"
    accepts = "application/json"

    def __init__(self, stream):
        self.stream = stream

    def transform_input(self, prompt, model_kwargs):
        return json.dumps({"inputs": prompt, "parameters": model_kwargs, "stream": self.stream}).encode()

    def transform_output(self, output):
        text = output.read() if hasattr(output, "read") else output
        if not self.stream:
            return json.loads(text)[0]["generated_text"]
        return json.loads(text.decode().removeprefix("data:"))["token"]["text"] if text.strip() else ""


def endpoint(server, stream=False, **parameters):
    config = Config(retries={"total_max_attempts": 1})
    return SagemakerEndpoint(
        endpoint_name="any",
        client=boto3.client("sagemaker-runtime", endpoint_url=server.url, config=config),
        content_handler=Handler(stream),
        model_kwargs={"max_new_tokens": 8, **parameters},
        streaming=stream,
    )


@check
def invoke(server):
    equal(endpoint(server).invoke(STORY), server.text(STORY, max_new_tokens=8))


@check
def stream(server):
    equal("".join(endpoint(server, stream=True).stream(STORY)), server.text(STORY, max_new_tokens=8))


@check
def validation(server):
    with raises(ClientError, "`top_p` must be > 0.0 and < 1.0", derived=True) as caught:
        endpoint(server, top_p=1.0).invoke(PROMPT)
    equal(caught[0].response["Error"]["Code"], "ModelError")


@check_with_own_server
def overloaded(_):
    with full_server() as server, server.full():
        with raises(ClientError, "ThrottlingException", "Model is overloaded", derived=True):
            endpoint(server).invoke(PROMPT)

"""SageMaker's SDK, version 3, as far as it can be pointed at a server: by AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME."""

import json
import os

from botocore.exceptions import ClientError
from sagemaker.core.resources import Endpoint

from client_check.checks import PROMPT, STORY, check, contains, equal


def endpoint():
    return Endpoint(endpoint_name="any")


@check
def invoke(server):
    assert os.environ["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"] == server.url
    body = json.dumps({"inputs": PROMPT, "parameters": {"max_new_tokens": 4}})
    answer = endpoint().invoke(body=body, content_type="application/json")
    equal(json.loads(answer.body.read()), [{"generated_text": server.text(max_new_tokens=4)}])


@check
def validation(_):
    try:
        endpoint().invoke(body=json.dumps({"inputs": ""}), content_type="application/json")
    except ClientError as error:
        contains(str(error), "`inputs` cannot be empty")
        equal(error.response["Error"]["Code"], "ModelError")
    else:
        raise AssertionError("answered")


@check
def streams_cannot_be_read_by_the_sdk(_):
    """Its fault, at any server: it takes the stream for a dictionary."""
    body = json.dumps({"inputs": STORY, "parameters": {"max_new_tokens": 4}, "stream": True})
    try:
        endpoint().invoke_with_response_stream(body=body, content_type="application/json")
    except AttributeError as error:
        contains(str(error), "'get'")
    else:
        raise AssertionError("it can now: check what it yields")

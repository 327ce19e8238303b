"""grpcio, with the service's types taken from server reflection alone."""

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from client_check.authority import secured_server
from client_check.checks import (
    PROMPT,
    STORY,
    check,
    check_with_own_server,
    contains,
    equal,
    full_server,
    mortal_server,
)

SERVICE = "peregrine.v1.Generation"


class Stub:
    """Calls methods of the service by name, with fields as keywords."""

    def __init__(self, server, channel=None):
        self.channel = channel or grpc.insecure_channel(server.grpc)
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.service = DescriptorPool(self.database).FindServiceByName(SERVICE)

    def call(self, name, timeout=60, **fields):
        method = self.service.methods_by_name[name]
        request, response = (GetMessageClass(kind) for kind in (method.input_type, method.output_type))
        make = self.channel.unary_stream if name == "GenerateStream" else self.channel.unary_unary
        call = make(f"/{SERVICE}/{name}", request.SerializeToString, response.FromString)
        return call(request(**fields), timeout=timeout)


def refused(call, code):
    """The error of a call that must end with `code`."""
    try:
        call()
    except grpc.RpcError as error:
        equal(error.code(), code)
        return error
    raise AssertionError(f"expected {code}, got an answer")


def details(error, kind):
    """The details of an error, of the one kind that there must be."""
    status = rpc_status.from_call(error)
    found = [detail for detail in status.details if detail.Is(kind.DESCRIPTOR)]
    equal(len(found), 1)
    message = kind()
    found[0].Unpack(message)
    return message


@check
def reflection_lists_the_services(server):
    services = Stub(server).database.get_services()
    assert {SERVICE, "grpc.health.v1.Health"} <= set(services), services


@check
def reflection_of_an_unknown_symbol(server):
    pool = DescriptorPool(Stub(server).database)
    try:
        pool.FindServiceByName("nope.X")
    except KeyError:
        return
    raise AssertionError("expected KeyError, got a service")


@check
def generate(server):
    answer = Stub(server).call("Generate", inputs=PROMPT, parameters={"max_new_tokens": 4, "details": True})
    expected = server.generate(PROMPT, max_new_tokens=4)
    equal(answer.generated_text, expected["generated_text"])
    equal([token.id for token in answer.details.tokens], [token["id"] for token in expected["details"]["tokens"]])
    equal(answer.details.finish_reason, "length")


@check
def generate_stream(server):
    messages = list(Stub(server).call("GenerateStream", inputs=STORY, parameters={"max_new_tokens": 8}))
    expected = server.text(STORY, max_new_tokens=8)
    equal("".join(token.text for message in messages for token in message.tokens), expected)
    equal(messages[-1].generated_text, expected)


@check
def info_and_tokens(server):
    stub = Stub(server)
    assert stub.call("GetInfo").max_total_tokens > 0
    equal("".join(token.text for token in stub.call("Tokenize", inputs=STORY).tokens), STORY)


@check
def validation_names_the_field(server):
    error = refused(lambda: Stub(server).call("Generate", inputs="a", parameters={"top_p": 1.0}), grpc.StatusCode.INVALID_ARGUMENT)
    contains(error.details(), "`top_p` must be > 0.0 and < 1.0")
    violations = details(error, error_details_pb2.BadRequest).field_violations
    equal([violation.field for violation in violations], ["top_p"])


@check
def too_long(server):
    error = refused(lambda: Stub(server).call("Generate", inputs="word " * 5000), grpc.StatusCode.INVALID_ARGUMENT)
    contains(error.details(), "`inputs`")


@check
def unknown_method(server):
    call = Stub(server).channel.unary_unary(f"/{SERVICE}/Nope")
    refused(lambda: call(b""), grpc.StatusCode.UNIMPLEMENTED)


@check
def deadline(server):
    stub = Stub(server)
    parameters = {"max_new_tokens": 1500, "ignore_eos": True}
    refused(lambda: stub.call("Generate", timeout=0.05, inputs=STORY, parameters=parameters), grpc.StatusCode.DEADLINE_EXCEEDED)


@check_with_own_server
def overloaded_says_when_to_come_back(_):
    with full_server() as server, server.full():
        error = refused(lambda: Stub(server).call("Generate", inputs="a"), grpc.StatusCode.RESOURCE_EXHAUSTED)
        equal(error.details(), "Model is overloaded")
        assert details(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0


@check_with_own_server
def a_broken_stream(_):
    with mortal_server() as server:
        stream = Stub(server).call("GenerateStream", inputs=STORY, parameters={"max_new_tokens": 1500, "ignore_eos": True})
        assert next(stream).tokens
        server.kill_workers()
        refused(lambda: list(stream), grpc.StatusCode.UNAVAILABLE)


@check_with_own_server
def tls_and_keys(_):
    with secured_server() as server:
        with open(server.ca, "rb") as file:
            tls = grpc.ssl_channel_credentials(file.read())

        def stub(key):
            keyed = grpc.composite_channel_credentials(tls, grpc.access_token_call_credentials(key))
            return Stub(server, grpc.secure_channel(server.grpc, keyed))

        assert stub(server.key).call("Generate", inputs=PROMPT, parameters={"max_new_tokens": 1}).generated_text
        error = refused(lambda: stub(server.key + "x").call("Generate", inputs=PROMPT), grpc.StatusCode.UNAUTHENTICATED)
        contains(error.details(), "key")
        # Whether it serves is told to all.
        health = grpc.secure_channel(server.grpc, tls).unary_unary("/grpc.health.v1.Health/Check")
        equal(health(b"", timeout=60), b"\x08\x01")

#!/usr/bin/env python3
"""Streams every request of a file of prompts over gRPC and prints the answers as they come.

Needs the packages grpcio and grpcio-tools.
usage: grpc_client.py [ADDR [FILE]]
    ADDR    the server's gRPC address, localhost:50051 if not given
    FILE    demo.json, for the demo model, if not given; prompts.json is for Falcon's own models
"""

import pathlib
import sys

import prompts

if __name__ == "__main__":
    # Before the packages, which may not be there.
    prompts.help_or_refuse(__doc__)

import grpc  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "proto"))
pb, services = grpc.protos_and_services("peregrine/v1/generation.proto")


def stream(stub, body):
    """Prints the answer to `body` token by token and returns its text."""
    request = pb.GenerateRequest(inputs=body["inputs"], parameters=pb.Parameters(**body["parameters"]))
    message = None
    for message in stub.GenerateStream(request, timeout=300):
        print("".join(token.text for token in message.tokens if not token.special), end="", flush=True)
    print()
    return message.generated_text


def main():
    addr = sys.argv[1] if len(sys.argv) > 1 else "localhost:50051"
    with grpc.insecure_channel(addr) as channel:
        stub = services.GenerationStub(channel)
        info = stub.GetInfo(pb.GetInfoRequest())
        print(f"{info.model_id} over {info.tensor_parallel} workers, backend {info.backend}")
        for name, body, request in prompts.requests(*sys.argv[2:3]):
            print(f"\n--- {name}\n{body['inputs']}", end="")
            answer = stream(stub, body)
            expected = request.get("contains", "")
            if expected not in answer:
                sys.exit(f"{name}: {expected!r} is not in the answer")
            if "follow_up" in request:
                print(f"--- {name}, second turn: {request['follow_up']}")
                stream(stub, prompts.next_turn(body, answer, request["follow_up"]))


if __name__ == "__main__":
    main()

"""The requests of prompts.json, as TGI's JSON bodies. Run as a program it prints one body a line."""

import json
import pathlib


def requests():
    """Yields (name, body, follow_up) for each request; follow_up is None but for conversations of two turns."""
    file = json.loads(pathlib.Path(__file__).with_name("prompts.json").read_text(encoding="utf-8"))
    for request in file["requests"]:
        parameters = request.get("parameters", file[request["model"] + "_parameters"])
        yield request["name"], {"inputs": request["inputs"], "parameters": parameters}, request.get("follow_up")


def next_turn(body, answer, follow_up):
    """The conversation of `body`, its answer, and one more question, as a new body."""
    conversation = body["inputs"] + answer.removesuffix("\nUser:") + "\nUser: " + follow_up + "\nFalcon:"
    return {**body, "inputs": conversation}


if __name__ == "__main__":
    for _, body, _ in requests():
        print(json.dumps(body))

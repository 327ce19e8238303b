"""The requests of a file of prompts, as TGI's JSON bodies. Run as a program it prints one body a line.

usage: prompts.py [FILE]    demo.json (for the demo model; the default), prompts.json (for Falcon's own models), or any like them
"""

import json
import pathlib
import sys

FOLDER = pathlib.Path(__file__).parent


def requests(name="demo.json"):
    """Yields (name, body, request) for each request of a file in this folder, or of any path."""
    path = FOLDER / name
    file = json.loads(path.read_text(encoding="utf-8"))
    for request in file["requests"]:
        parameters = request.get("parameters", file[request["model"] + "_parameters"])
        yield request["name"], {"inputs": request["inputs"], "parameters": parameters}, request


def help_or_refuse(usage):
    """Ends the program where help is asked for, or an option that there is not."""
    options = [argument for argument in sys.argv[1:] if argument.startswith("-")]
    if options and options[0] in ("-h", "--help"):
        print(usage)
        sys.exit()
    if options:
        print(f"{options[0]}: no such option\n{usage}", file=sys.stderr)
        sys.exit(2)


def next_turn(body, answer, follow_up):
    """The conversation of `body`, its answer, and one more question, as a new body."""
    conversation = body["inputs"] + answer.removesuffix("\nUser:") + "\nUser: " + follow_up + "\nFalcon:"
    return {**body, "inputs": conversation}


if __name__ == "__main__":
    help_or_refuse(__doc__)
    for _, body, _ in requests(*sys.argv[1:2]):
        print(json.dumps(body))

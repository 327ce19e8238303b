"""The server of a test: one that is started, or the one that run-tests was given."""

import contextlib
import os

import peregrine_server

# All requests of a test that sends 200 at once are taken.
REQUESTS = 256


@contextlib.contextmanager
def server(positions):
    """Yields the HTTP address, as HOST:PORT, of a server whose requests may have so many tokens."""
    if os.environ["PEER_SERVER"]:
        yield os.environ["PEER_SERVER"]
        return
    flags = ["--model", os.environ["PEER_MODEL"], "--max-total-tokens", str(positions), "--kv-tokens", str(4 * positions)]
    with peregrine_server.server([*flags, "--max-concurrent-requests", str(REQUESTS)]) as started:
        yield started.http

"""A pytest plugin: the fixtures of TGI's tests, with a Peregrine server where they start TGI or ask one that runs elsewhere."""

import asyncio
import contextlib
import json
import pathlib

import pytest
from text_generation import AsyncClient

from peer_tests import server

POSITIONS = 2048


@pytest.fixture(scope="session")
def address():
    with server.server(POSITIONS) as address:
        yield f"http://{address}"


@pytest.fixture
def llama_7b_url(address):
    return address


@pytest.fixture
def fake_url(address):
    return f"{address}/fake/model"


@pytest.fixture
def hf_headers():
    return {}


class Handle:
    """A server that was launched."""

    def __init__(self, address):
        self.client = AsyncClient(address, timeout=60)

    async def health(self, timeout):
        del timeout
        await self.client.generate("test")


@pytest.fixture(scope="session")
def launcher(address):
    @contextlib.contextmanager
    def launch(model_id, **options):
        del model_id, options
        yield Handle(address)

    return launch


@pytest.fixture(scope="module")
def generate_load():
    async def load(client, prompt, max_new_tokens, n):
        asked = [client.generate(prompt, max_new_tokens=max_new_tokens, decoder_input_details=True) for _ in range(n)]
        return await asyncio.gather(*asked)

    return load


def lacks(recorded, answer, at="answer"):
    """Where the answer lacks what the recorded one has, or has it as another type; None if nowhere. Words and numbers do not matter."""
    if isinstance(recorded, dict):
        if not isinstance(answer, dict):
            return at
        return next((found for key in recorded if (found := lacks(recorded[key], answer.get(key), f"{at}.{key}"))), None)
    if isinstance(recorded, list):
        if not isinstance(answer, list) or (recorded and not answer):
            return at
        return next((found for old, new in zip(recorded, answer) if (found := lacks(old, new, f"{at}[]"))), None)
    if recorded is None or isinstance(answer, type(recorded)) or (isinstance(recorded, float) and isinstance(answer, int)):
        return None
    return at


class Shape:
    """What TGI answered when the test was written. An answer is equal if it has all fields of that, with their types."""

    def __init__(self, path):
        self.recorded = json.loads(path.read_text())

    def __eq__(self, answer):
        plain = [one.model_dump() if hasattr(one, "model_dump") else one for one in (answer if isinstance(answer, list) else [answer])]
        where = lacks(self.recorded if isinstance(answer, list) else [self.recorded], plain)
        assert where is None, f"{where} is not as TGI has it"
        return True


@pytest.fixture
def response_snapshot(request):
    path = pathlib.Path(request.path)
    return Shape(path.parent / "__snapshots__" / path.stem / f"{request.node.name}.json")


def pytest_configure(config):
    for marker in ("release", "private"):
        config.addinivalue_line("markers", f"{marker}: as TGI marks its tests")


def pytest_peer_leaves_out(item):
    if "address" not in item.fixturenames:
        return "the peer's own classes, without a server"
    return None

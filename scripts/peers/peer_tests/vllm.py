"""A pytest plugin: what vLLM's tests import of vLLM, so that they run without it, against Peregrine.

`RemoteOpenAIServer`, which starts vLLM in the original, is a Peregrine server here, and `get_tokenizer` loads its tokenizer. Whatever
else is imported of vLLM and torch is a mock: tests that use it are not selected.
"""

import contextlib
import importlib.abc
import importlib.machinery
import inspect
import json
import os
import pathlib
import sys
import types
from unittest import mock

import openai
import pytest

from peer_tests import server

MODEL = pathlib.Path(os.environ["PEER_MODEL"])
TIMEOUT_S = 600
MODEL_LEN = 8192
# Flags without an equal that change nothing of what the tests ask for, or that turn on what Peregrine always does or never does.
# Any other leaves the test out.
FLAGS = {
    "--dtype", "--max-model-len", "--max-num-seqs", "--enforce-eager", "--gpu-memory-utilization", "--enable-chunked-prefill",
    "--max-num-batched-tokens", "--no-enable-prefix-caching", "--enable-prompt-tokens-details", "--enable-request-id-headers",
    "--enable-tokenizer-info-endpoint", "--enable-per-request-metrics", "--enable-server-load-tracking", "--max-logprobs",
    "--enable-auto-tool-choice", "--tool-call-parser", "--trust-remote-code", "--limit-mm-per-prompt", "--runner",
    "--enable-lora", "--lora-modules", "--max-lora-rank", "--max-cpu-loras",
}  # fmt: skip


class RemoteOpenAIServer:
    """The server of a module's tests, with the interface of vLLM's class of this name."""

    DUMMY_API_KEY = "none"

    def __init__(self, model, vllm_serve_args, **options):
        del model, options
        for flag in (argument.split("=")[0] for argument in vllm_serve_args if argument.startswith("--")):
            if flag not in FLAGS:
                pytest.skip(f"the server's flag `{flag}`")
        self.positions = MODEL_LEN
        for flag, value in zip(vllm_serve_args, vllm_serve_args[1:]):
            if flag == "--max-model-len":
                self.positions = int(value)
        self.exits = contextlib.ExitStack()

    def __enter__(self):
        address = self.exits.enter_context(server.server(self.positions))
        self.host, port = address.rsplit(":", 1)
        self.port, self.url_root = int(port), f"http://{address}"
        return self

    def __exit__(self, *error):
        self.exits.close()

    def url_for(self, *parts):
        return "/".join([self.url_root, *(part.lstrip("/") for part in parts)])

    def get_client(self, **options):
        return openai.OpenAI(**self.options(options))

    def get_async_client(self, **options):
        return openai.AsyncOpenAI(**self.options(options))

    def options(self, given):
        return {"base_url": self.url_for("v1"), "api_key": self.DUMMY_API_KEY, "max_retries": 0, "timeout": TIMEOUT_S, **given}


def get_tokenizer(*arguments, **options):
    del arguments, options
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL)


class ModelConfig:
    def __init__(self, **options):
        del options

    def get_vocab_size(self):
        return json.loads((MODEL / "config.json").read_text())["vocab_size"]


class Platform:
    """A slow one, whose time limits the tests extend."""

    def is_rocm(self):
        return True


# What is not a mock.
REAL = {
    "vllm.tokenizers": {"get_tokenizer": get_tokenizer},
    "vllm.config": {"ModelConfig": ModelConfig},
    "vllm.platforms": {"current_platform": Platform()},
    "torch": {"iinfo": lambda _: types.SimpleNamespace(min=-(2**63), max=2**63 - 1)},
}


class Module(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, mock.MagicMock(name=f"{self.__name__}.{name}"))
        return getattr(self, name)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds every module of these packages."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("vllm", "torch"):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return Module(spec.name)

    def exec_module(self, module):
        vars(module).update(REAL.get(module.__name__, {}))


sys.meta_path.insert(0, Finder())
sys.modules["tests.utils"] = Module("tests.utils")
sys.modules["tests.utils"].RemoteOpenAIServer = RemoteOpenAIServer


def pytest_peer_leaves_out(item):
    asks = any("server" in name or "client" in name for name in item.fixturenames)
    if not asks and "RemoteOpenAIServer" not in inspect.getsource(item.function):
        return "the peer's own classes, without a server"
    if "lora" in item.name:
        return "LoRA adapters"
    return None

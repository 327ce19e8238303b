#!/usr/bin/env python3
"""Writes what transformers makes of this folder's templates and conversations: goldens.json, dialect.json, folders.json.

Not part of the build. It needs no model and no network:

    python -m venv venv && venv/bin/pip install transformers==5.24.0 jinja2==3.1.6
    venv/bin/python testdata/chat-templates/make-goldens.py

goldens.json   every template of templates/ on every conversation of conversations.json, with and without the generation
               prompt, and continuing the last message: the prompt, or the error
dialect.json   each line of dialect.txt, a template of its own, on small variables: where Jinja's implementations differ
folders.json   each folder of selection.json, opened by `AutoTokenizer`, and the prompt of which of its templates comes out
"""

import datetime
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import jinja2
import transformers
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

HERE = Path(__file__).parent
PINNED = {"transformers": "5.24.0", "jinja2": "3.1.6"}
CONVERSATIONS = json.loads((HERE / "conversations.json").read_text("utf-8"))
RUNS = {
    "prompted": {"add_generation_prompt": True},
    "plain": {"add_generation_prompt": False},
    "continued": {"continue_final_message": True},
}
# These take content as a list of parts alone; a string becomes a part, as vLLM does it.
PARTS_ALONE = {"idefics3", "llava_next"}
# These take parts as well as strings. To others transformers gives the parts, which they print as Python would.
PARTS_TOO = PARTS_ALONE | set((HERE / "takes-parts.txt").read_text().split())


class Clock(datetime.datetime):
    """What `strftime_now` asks for the time."""

    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(CONVERSATIONS["unix_seconds"], datetime.timezone.utc).replace(tzinfo=None)


def tokenizer(chat_template):
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<pad>": 2}, unk_token="<pad>")),
        chat_template=chat_template,
        **CONVERSATIONS["special_tokens"],
    )


def outcome(render):
    """`{"prompt": …}`; `{"refused": …}` with what a template said; or `{"error": …}` with the exception's class."""
    try:
        return {"prompt": render()}
    except jinja2.exceptions.TemplateError as error:
        if type(error) is jinja2.exceptions.TemplateError:
            return {"refused": str(error.message)}
        return {"error": f"{type(error).__name__}: {error}"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error)[:120]}"}


def with_parts(messages):
    as_parts = lambda content: [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [{**message, "content": as_parts(message.get("content"))} for message in messages]


def goldens():
    cases = []
    for path in sorted((HERE / "templates").glob("*.jinja")):
        made = tokenizer(path.read_text("utf-8"))
        for name, conversation in CONVERSATIONS["conversations"].items():
            if name == "parts" and path.stem not in PARTS_TOO:
                continue
            messages = conversation["messages"]
            if path.stem in PARTS_ALONE:
                messages = with_parts(messages)
            ends_with_answer = messages[-1]["role"] == "assistant"
            for run, options in RUNS.items():
                if run != "prompted" and not ends_with_answer:
                    continue
                arguments = {"tools": conversation.get("tools"), **conversation.get("kwargs", {}), **options}
                render = lambda: made.apply_chat_template(messages, tokenize=False, **arguments)
                cases.append({"template": path.stem, "conversation": name, "run": run, **outcome(render)})
    return cases


def dialect():
    cases = []
    variables = json.loads((HERE / "dialect-variables.json").read_text("utf-8"))
    for line in (HERE / "dialect.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("##"):
            source = json.loads('"' + line.removeprefix("~~ ") + '"')
            compiled = lambda: chat_template_utils._compile_jinja_template(source)
            cases.append({"template": line, **outcome(lambda: compiled().render(**variables))})
    return cases


def folders():
    cases = []
    for case in json.loads((HERE / "selection.json").read_text("utf-8")):
        with tempfile.TemporaryDirectory() as folder:
            tokenizer(None).save_pretrained(folder)
            config = Path(folder, "tokenizer_config.json")
            config.write_text(json.dumps({**json.loads(config.read_text()), **case["config"]}))
            for name, text in case["files"].items():
                Path(folder, name).parent.mkdir(exist_ok=True)
                Path(folder, name).write_bytes(text.encode())
            made = AutoTokenizer.from_pretrained(folder)
            messages = [{"role": "user", "content": "Hi"}]
            arguments = {"chat_template": case.get("template"), "tools": case.get("tools")}
            case["config"] = {**CONVERSATIONS["special_tokens"], **case["config"]}
            cases.append({**case, **outcome(lambda: made.apply_chat_template(messages, tokenize=False, **arguments))})
    return cases


def write(name, cases):
    """One case a line."""
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    versions = json.dumps(PINNED)
    (HERE / name).write_text(f'{{"versions": {versions}, "cases": [\n{lines}\n]}}\n', "utf-8")
    errors = sum("error" in case for case in cases)
    print(f"{name}: {len(cases)} cases, of which {errors} are errors")


def main():
    found = {"transformers": transformers.__version__, "jinja2": jinja2.__version__}
    if found != PINNED:
        sys.exit(f"expected {PINNED}, found {found}")
    chat_template_utils.datetime = Clock
    write("goldens.json", goldens())
    write("dialect.json", dialect())
    write("folders.json", folders())


if __name__ == "__main__":
    main()

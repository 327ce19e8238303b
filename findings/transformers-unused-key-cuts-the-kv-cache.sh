#!/usr/bin/env bash
# Guess: a key of config.json that a model's code never reads changes nothing; and generation with a KV cache gives the tokens of
# the forward pass without one.
# So it is: transformers makes the KV cache from the config, not from the model's code. A `sliding_window` or an
# `attention_chunk_size` in the config of a Falcon, which has neither, makes the cache drop older keys. The forward pass over
# a whole text is unchanged to the bit; generate() goes wrong from the first token behind the window, without a word.
# What it touches: configs that were put together from another model's. A check of logits, or of perplexity, does not see it.
# Seen with transformers 5.24.0, torch 2.15.0, on a random Falcon of two layers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 torch==2.15.0
"$folder/venv/bin/python" - "$folder/model" 2>"$folder/log" <<'PYTHON' || { tail -20 "$folder/log"; exit 1; }
import json
import sys
import torch
import transformers
from transformers import FalconConfig, FalconForCausalLM

print("transformers", transformers.__version__, "torch", torch.__version__)
folder = sys.argv[1]
torch.manual_seed(1)
shape = dict(hidden_size=32, num_attention_heads=4, num_hidden_layers=2, vocab_size=96, initializer_range=0.25)
FalconForCausalLM(FalconConfig(**shape)).save_pretrained(folder)
plain = json.load(open(f"{folder}/config.json"))
ids = torch.tensor([[5, 9, 33, 61, 2, 77, 14, 9, 3, 50]])


def answers(**keys):
    json.dump({**plain, **keys}, open(f"{folder}/config.json", "w"))
    model = FalconForCausalLM.from_pretrained(folder).eval()
    generate = lambda cache: model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, use_cache=cache, eos_token_id=None, pad_token_id=0
    )[0, ids.shape[1]:].tolist()
    with torch.no_grad():
        return model(ids).logits, generate(True), generate(False)


logits, cached, uncached = answers()
print("without such a key:", cached)
assert cached == uncached
for key in ["sliding_window", "attention_chunk_size"]:
    other = answers(**{key: 4})
    print(f"with {key} 4: logits equal: {torch.equal(logits, other[0])}, cached {other[1]}, uncached {other[2]}")
    assert torch.equal(logits, other[0]) and other[2] == uncached, "changed: it is used without a cache, too"
    assert other[1] != cached, "changed: the cache is whole"
print("as described")
PYTHON

#!/usr/bin/env bash
# Guess: `num_kv_heads` in a config says how many key and value heads the model has, so it sizes the KV cache.
# So it is: for a multi-query Falcon without the newer architecture, transformers writes the number of query heads into
# it as soon as it saves: 71 for Falcon-7B, which has one. The model's code then ignores it, and computes with one.
# What it touches: a planner that multiplies by it reserves 71 times the memory, and a server that cuts KV heads over GPUs by it
# cuts what is not there. `multi_query` and `new_decoder_architecture` have to be asked first.
# The older keys of the published 7B config (`n_head`, `n_layer`, model_type RefinedWebModel) are no help: FalconConfig
# takes them for unknown, and keeps its defaults, which happen to be those of 7B; other sizes come out as 7B.
# Seen with transformers 5.24.0 and 4.57.6. No weights and no torch are needed: configs show it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/7b"
cat >"$folder/7b/config.json" <<'JSON'
{"model_type": "falcon", "hidden_size": 4544, "num_attention_heads": 71, "num_hidden_layers": 32, "multi_query": true}
JSON
for version in 5.24.0 4.57.6; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet "transformers==$version"
    TRANSFORMERS_VERBOSITY=error "$folder/$version/bin/python" - "$folder" 2>"$folder/log" <<'PYTHON' || { tail "$folder/log"; exit 1; }
import json, sys
import transformers
from transformers import AutoConfig, FalconConfig

folder = sys.argv[1]
AutoConfig.from_pretrained(f"{folder}/7b").save_pretrained(f"{folder}/saved")
saved = json.load(open(f"{folder}/saved/config.json"))
print("transformers", transformers.__version__, "saves num_kv_heads", saved["num_kv_heads"], "with multi_query", saved["multi_query"])
assert saved["num_kv_heads"] == 71 and saved["multi_query"] and not saved["new_decoder_architecture"], "changed"
# The keys of the first published configs, for a model of 16 heads and 4 layers.
old = FalconConfig(hidden_size=1024, n_head=16, n_layer=4)
print("  n_head 16 and n_layer 4 are read as", old.num_attention_heads, "heads and", old.num_hidden_layers, "layers")
assert (old.num_attention_heads, old.num_hidden_layers) == (71, 32), "changed"
PYTHON
done
echo "as described"

#!/usr/bin/env bash
# Guess: the base of a model's rotary embeddings stands in config.json as `rope_theta`, so whoever reads that key computes the
# same model, and an older transformers reads what a newer one has written, or says that it cannot.
# So it is: transformers 5 writes `rope_parameters: {"rope_theta": …, "rope_type": …}` and no `rope_theta`, also for a
# config that was read with the old key. transformers 4.57.6 reads such a file without a word and takes the default base, 10000.
# Where both keys are there, transformers 5 takes the inner one.
# What it touches: Falcon2-11B (base 500042) saved again by transformers 5 is another model to every reader of `rope_theta`:
# fluent at first, and wrong the more the longer the text. Falcon 7B, 40B and 180B have base 10000, so they hide it.
# Seen with transformers 5.24.0 and 4.57.6. No weights and no torch are needed: configs show it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 5.24.0 4.57.6; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet "transformers==$version"
done
mkdir "$folder/old" "$folder/both"
echo '{"model_type": "falcon", "hidden_size": 4096, "num_attention_heads": 32, "rope_theta": 500042.0}' >"$folder/old/config.json"
export TRANSFORMERS_VERBOSITY=warning
"$folder/5.24.0/bin/python" - "$folder" <<'PYTHON' 2>"$folder/log" || { tail "$folder/log"; exit 1; }
import json, sys
import transformers
from transformers import AutoConfig

folder = sys.argv[1]
AutoConfig.from_pretrained(f"{folder}/old").save_pretrained(f"{folder}/new")
written = json.load(open(f"{folder}/new/config.json"))
print("transformers", transformers.__version__, "writes rope_theta:", written.get("rope_theta"), "rope_parameters:", written.get("rope_parameters"))
assert "rope_theta" not in written and written["rope_parameters"]["rope_theta"] == 500042.0, "changed"
json.dump({**written, "rope_theta": 123.0}, open(f"{folder}/both/config.json", "w"))
both = AutoConfig.from_pretrained(f"{folder}/both").rope_parameters["rope_theta"]
print("with rope_theta 123 beside it, it takes", both)
assert both == 500042.0, "changed"
PYTHON
"$folder/4.57.6/bin/python" - "$folder" <<'PYTHON' 2>"$folder/log" || { tail "$folder/log"; exit 1; }
import sys
import transformers
from transformers import AutoConfig

found = {name: AutoConfig.from_pretrained(f"{sys.argv[1]}/{name}").rope_theta for name in ["old", "new"]}
print("transformers", transformers.__version__, "reads the file with the old key as", found["old"], "and the one that 5 wrote as", found["new"])
assert found == {"old": 500042.0, "new": 10000.0}, "changed"
PYTHON
! grep -i rope "$folder/log" || { echo "changed: it says something about it"; exit 1; }
echo "as described"

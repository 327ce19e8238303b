#!/usr/bin/env bash
# Guess: `tie_word_embeddings: true` decides alone that the output projection is the embedding table.
# So it is: in transformers 4.57.6 it does; a stored lm_head that differs is dropped, without a word. In 5.24.0 the
# checkpoint decides: where both are stored and differ, the stored head is used, and a warning names the config's key.
# The same folder gives other tokens, with the same config and the same bytes.
# What it touches: checkpoints of fine-tunes that trained the head, whose config lost the key (Falcon's default is true).
# Seen with transformers 5.24.0 and 4.57.6, torch 2.15.0, safetensors 0.8.0, on a random Falcon of two layers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export TRANSFORMERS_VERBOSITY=warning
cat >"$folder/show.py" <<'PYTHON'
import sys
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import FalconConfig, FalconForCausalLM

folder = sys.argv[1]
if sys.argv[2] == "write":
    torch.manual_seed(1)
    shape = dict(hidden_size=32, num_attention_heads=4, num_hidden_layers=2, vocab_size=96, initializer_range=0.25)
    FalconForCausalLM(FalconConfig(**shape)).save_pretrained(folder)
    tensors = load_file(f"{folder}/model.safetensors")
    tensors["lm_head.weight"] = torch.randn(96, 32)
    save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})
stored = load_file(f"{folder}/model.safetensors")
model = FalconForCausalLM.from_pretrained(folder)
assert model.config.tie_word_embeddings
head = model.lm_head.weight.detach()
used = [name for name in ("lm_head.weight", "transformer.word_embeddings.weight") if torch.equal(head, stored[name])]
best = model(torch.tensor([[5, 9, 33]])).logits[0, -1].argmax().item()
print("transformers", transformers.__version__, "torch", torch.__version__, "uses", *used, "- the next token is", best)
PYTHON
for version in 5.24.0 4.57.6; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet "transformers==$version" torch==2.15.0 safetensors==0.8.0
    what=$([[ $version == 5.24.0 ]] && echo write || echo read)
    "$folder/$version/bin/python" "$folder/show.py" "$folder/model" "$what" >"$folder/$version.out" 2>"$folder/$version.log"
    cat "$folder/$version.out"
    echo "  warnings about tying: $(grep -c 'will NOT tie them' "$folder/$version.log" || true)"
    # Room for the next.
    rm -rf "${folder:?}/$version"
done
grep -q ' uses lm_head.weight - ' "$folder/5.24.0.out" || { echo "changed in 5.24.0"; exit 1; }
grep -q ' uses transformer.word_embeddings.weight - ' "$folder/4.57.6.out" || { echo "changed in 4.57.6"; exit 1; }
grep -q 'will NOT tie them' "$folder/5.24.0.log" || { echo "changed: 5.24.0 does not warn"; exit 1; }
! grep -q 'NOT tie' "$folder/4.57.6.log" || { echo "changed: 4.57.6 warns"; exit 1; }
[[ $(grep -o '[0-9]*$' "$folder/5.24.0.out") != $(grep -o '[0-9]*$' "$folder/4.57.6.out") ]] || { echo "changed: equal tokens"; exit 1; }
echo "as described"

#!/usr/bin/env bash
# Guess: an added token of tokenizer.json decodes to its own text.
# So it is: not where the decoder is ByteLevel and every letter of the token is also a letter of that decoder's byte alphabet.
# Then the letters are taken for bytes: `café` decodes to `caf` and U+FFFD, although it was encoded as one token. `日本` has
# letters outside of the alphabet, and decodes to itself. The same holds for special tokens.
# What it touches: stop strings and chat formats of fine-tunes whose added tokens have such letters.
# Seen with tokenizers 0.23.3.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PYTHON'
import tokenizers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()

print("tokenizers", tokenizers.__version__)
expected = {"café": "caf\ufffd", "°C": "\ufffdC", "Zürich": "Z\ufffdrich", "日本": "日本", "<|user|>": "<|user|>"}
for special in (False, True):
    for text, decoded in expected.items():
        add = tokenizer.add_special_tokens if special else tokenizer.add_tokens
        add([AddedToken(text, special=special, normalized=False)])
        ids = tokenizer.encode(text).ids
        found = tokenizer.decode(ids, skip_special_tokens=False)
        print(f"special={special} {text!r} -> ids {ids} -> {found!r}")
        assert len(ids) == 1, "an added token is one id"
        assert found == decoded, f"changed: expected {decoded!r}"
        # Ordinary text with the same letters is right.
        around = f"x {text[:-1]}"
        assert tokenizer.decode(tokenizer.encode(around).ids) == around
print("as described")
PYTHON

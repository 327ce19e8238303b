#!/usr/bin/env python3
"""Makes SageMaker's model archive of a model folder: what SageMaker unpacks to /opt/ml/model.

usage: archive.py DIR model.tar.gz

The files lie at the top of the archive: config.json, the tokenizer, and the weights as safetensors. Links, as in Hugging Face's cache,
are followed. What Peregrine does not read (weights in other formats, code) is left out. Weights do not shrink, so they are packed
fast. From about 20 GB on leave the archive out, and let SageMaker read the folder from S3: docs/deploying.md.
"""

import pathlib
import sys
import tarfile

NEEDED = ["config.json", "tokenizer.json"]
WEIGHTS = "*.safetensors"
TAKEN = [*NEEDED, "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja", "*.safetensors.index.json", WEIGHTS]


def files(model):
    """The files of a model folder that belong into its archive.

    Raises FileNotFoundError if one is missing without which the model cannot be served.
    """
    for name in [*NEEDED, WEIGHTS]:
        if not any(model.glob(name)):
            raise FileNotFoundError(f"{model} has no {name}")
    return sorted({file for name in TAKEN for file in model.glob(name)})


def make(model, archive):
    """Writes the archive of the folder `model`, and returns the names that are in it."""
    found = files(pathlib.Path(model))
    with tarfile.open(archive, "w:gz", compresslevel=1, dereference=True) as tar:
        for file in found:
            tar.add(file, arcname=file.name, recursive=False)
    return [file.name for file in found]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        print("\n".join(make(*sys.argv[1:])))
    except OSError as error:
        sys.exit(f"error: {error}")

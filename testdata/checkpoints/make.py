#!/usr/bin/env python3
"""Writes the small random checkpoints of this folder, as transformers writes them, and what transformers answers to each.

Not part of the build. It needs torch, and either of two releases of transformers; call it once with each:

    python -m venv v5 && v5/bin/pip install torch==2.15.0 transformers==5.24.0
    python -m venv v4 && v4/bin/pip install torch==2.15.0 transformers==4.57.6
    v5/bin/python testdata/checkpoints/make.py
    v4/bin/python testdata/checkpoints/make.py

Every variant is one folder: config.json, weights packed with gzip, and expected.json. The latter says

  "equals"   what transformers' float32 forward pass makes of the folder, loaded by from_pretrained(dtype=float32): the
             log-probabilities of a prompt, and eight greedy tokens with their log-probabilities and margins; or
  "refused"  words that the error must have.

"beside" is how far the answer is, at most, from that of the same weights under a config without what the variant is about:
what a reader that ignores it would be wrong by. The script stops if that is so small that a test could not tell.
"""

import gzip
import json
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import FalconConfig, FalconForCausalLM

HERE = Path(__file__).parent
MAJOR = int(transformers.__version__.split(".")[0])
PINNED = {5: "5.24.0", 4: "4.57.6"}
PROMPT = [5, 9, 33, 61, 2, 77, 14, 9, 3, 50, 81, 7, 7, 28, 40, 19, 66, 90, 12, 1]
NEW_TOKENS = 8
# A log-probability may be off by 2e-3 in the test; what is ignored must be off by far more.
TELLING = 0.05

GROUPED = dict(
    hidden_size=32, num_attention_heads=4, num_hidden_layers=2, vocab_size=96, ffn_hidden_size=48,
    new_decoder_architecture=True, num_kv_heads=2, max_position_embeddings=64, initializer_range=0.25,
)
MULTI_QUERY = {**GROUPED, "new_decoder_architecture": False, "num_kv_heads": None}
ALIBI = {
    **GROUPED, "new_decoder_architecture": False, "num_kv_heads": None, "multi_query": False, "alibi": True, "bias": True,
    "parallel_attn": False,
}
LONG_HEADS = {**GROUPED, "hidden_size": 64, "num_attention_heads": 2, "num_kv_heads": 1, "num_ln_in_parallel_attn": 1}


def model(seed, base, **changes):
    """A random model whose biases and norms are not zeros and ones, either."""
    torch.manual_seed(seed)
    made = FalconForCausalLM(FalconConfig(**{**base, **changes}))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.randn_like(parameter) * 0.2 + (1.0 if name.endswith("weight") else 0.0))
    return made.to(torch.bfloat16).eval()


def answer(folder):
    loaded = FalconForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([PROMPT])
    with torch.no_grad():
        scores = torch.log_softmax(loaded(ids).logits[0].double(), -1)
        prompt = scores[range(len(PROMPT) - 1), PROMPT[1:]].tolist()
        tokens, logprobs, margins = [], [], []
        for _ in range(NEW_TOKENS):
            # Without a cache, so that nothing but the forward pass is asked.
            scores = torch.log_softmax(loaded(ids, use_cache=False).logits[0, -1].double(), -1)
            best = torch.topk(scores, 2)
            tokens.append(int(best.indices[0]))
            logprobs.append(float(best.values[0]))
            margins.append(float(best.values[0] - best.values[1]))
            ids = torch.cat([ids, best.indices[:1][None]], 1)
    rounded = lambda values: [round(value, 6) for value in values]
    return dict(prompt=PROMPT, prompt_logprobs=rounded(prompt), ids=tokens, logprobs=rounded(logprobs), margins=rounded(margins))


def distance(one, other):
    return max(abs(a - b) for a, b in zip(one["prompt_logprobs"], other["prompt_logprobs"]))


class Variant:
    """A folder in the making."""

    def __init__(self, name):
        self.name = name
        self.folder = Path(tempfile.mkdtemp()) / name
        self.folder.mkdir()

    def save(self, made, **options):
        made.save_pretrained(self.folder, **options)
        return self

    def config(self, remove=(), **changes):
        path = self.folder / "config.json"
        config = {k: v for k, v in json.loads(path.read_text()).items() if k not in remove}
        path.write_text(json.dumps({**config, **changes}, indent=2))
        return self

    def tensors(self, change):
        """Rewrites model.safetensors: `change` gets a dict and returns one."""
        path = self.folder / "model.safetensors"
        save_file(change(load_file(path)), path, metadata={"format": "pt"})
        return self

    def without(self, remove=(), **changes):
        """The answer to the same weights under another config."""
        other = Variant(self.name)
        shutil.copytree(self.folder, other.folder, dirs_exist_ok=True)
        return answer(other.config(remove, **changes).folder)

    def equals(self, ignoring=None, as_folder=None):
        expected = answer(as_folder or self.folder)
        found = {"equals": expected}
        if ignoring is not None:
            found["beside"] = round(distance(expected, ignoring), 4)
            assert found["beside"] > TELLING, f"{self.name}: {found['beside']}"
        self.keep(found)

    def refused(self, *words):
        self.keep({"refused": list(words)})

    def keep(self, expected):
        target = HERE / self.name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for path in sorted(self.folder.iterdir()):
            if path.name == "generation_config.json":
                continue
            packed = path.suffix in (".safetensors", ".bin")
            data = path.read_bytes()
            out = target / (path.name + ".gz" if packed else path.name)
            out.write_bytes(gzip.compress(data, 9, mtime=0) if packed else data)
        expected["made_by"] = f"transformers {transformers.__version__}"
        (target / "expected.json").write_text(json.dumps(expected) + "\n")
        print(f"{self.name:32} {'equals' if 'equals' in expected else 'refused'} {expected.get('beside', '')}")


def renamed(rename):
    return lambda tensors: {rename(name): tensor for name, tensor in tensors.items()}


def plain_rope(theta=10000.0):
    return dict(rope_parameters=dict(rope_type="default", rope_theta=theta))


def variants_of_5():
    base = model(1, GROUPED)
    rope = lambda **parameters: {"rope_parameters": {"rope_theta": 10000.0, **parameters}}

    # Architectures, as they are saved today.
    for name, made in {
        "grouped": base,
        "multi-query": model(2, MULTI_QUERY),
        "one-norm-untied": model(3, GROUPED, num_ln_in_parallel_attn=1, tie_word_embeddings=False),
        "alibi-sequential": model(4, ALIBI),
        "multi-head-sequential": model(5, MULTI_QUERY, multi_query=False, parallel_attn=False),
        "grouped-bias": model(6, GROUPED, bias=True, layer_norm_epsilon=1e-3),
        "alibi-six-heads": model(7, {**ALIBI, "hidden_size": 36, "num_attention_heads": 6, "parallel_attn": True}),
        "gelu-python": model(8, GROUPED, activation="gelu_python"),
    }.items():
        Variant(name).save(made).equals()

    # Rotary embeddings.
    for name, parameters in {
        "rope-theta": dict(rope_theta=500042.0),
        "rope-linear": dict(rope_type="linear", factor=4.0),
        "rope-yarn": dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16),
        "rope-yarn-factors": dict(
            rope_type="yarn", factor=8.0, original_max_position_embeddings=32, beta_fast=4.0, beta_slow=0.5, truncate=False,
            mscale=1.0, mscale_all_dim=0.5, rope_theta=500.0,
        ),
        "rope-yarn-attention-factor": dict(rope_type="yarn", factor=4.0, attention_factor=1.5),
        "rope-old-type-key": None,
    }.items():
        made = model(20, LONG_HEADS) if "yarn" in name else base
        variant = Variant(name).save(made)
        if parameters is None:
            parameters = dict(rope_theta=10000.0, type="linear", factor=4.0)
            variant.config(rope_parameters=parameters)
        else:
            variant.config(**rope(**parameters))
        variant.equals(ignoring=variant.without(**plain_rope()))
    variant = Variant("rope-both-keys").save(base).config(rope_theta=500042.0, **plain_rope(20.0))
    variant.equals(ignoring=variant.without(**plain_rope(500042.0)))
    scaling = dict(rope_type="linear", factor=4.0)
    variant = Variant("rope-scaling-old").save(base).config(["rope_parameters"], rope_theta=500042.0, rope_scaling=scaling)
    variant.equals(ignoring=variant.without(["rope_scaling"]))
    Variant("rope-scaling-default").save(base).config(["rope_parameters"], rope_scaling=dict(rope_type="default")).equals()
    Variant("rope-dynamic").save(base).config(**rope(rope_type="dynamic", factor=2.0)).equals()
    for kind, parameters in {
        "llama3": dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16),
        "longrope": dict(short_factor=[1.0] * 4, long_factor=[4.0] * 4, original_max_position_embeddings=32),
        "proportional": dict(partial_rotary_factor=1.0, factor=4.0),
    }.items():
        variant = Variant(f"rope-{kind}").save(base).config(**rope(rope_type=kind, **parameters))
        variant.refused("config.json", "rope_parameters.rope_type", kind)

    # Keys that change the result.
    for activation in ["gelu_new", "relu"]:
        Variant(f"activation-{activation}").save(model(8, GROUPED, activation=activation)).refused("activation", activation)
    Variant("n-embed").save(base).config(["hidden_size"], n_embed=32).equals()
    # Unknown to Falcon's own code, and yet its KV cache is made by it.
    Variant("sliding-window").save(base).config(sliding_window=4).refused("config.json", "sliding_window", "4")

    # The output projection.
    head = torch.randn(96, 32).to(torch.bfloat16)
    with_head = lambda value: lambda tensors: {**tensors, "lm_head.weight": value(tensors).clone()}
    table = "transformer.word_embeddings.weight"
    variant = Variant("head-differs").save(base).tensors(with_head(lambda _: head))
    variant.equals(ignoring=answer(Variant("x").save(base).folder))
    variant = Variant("head-differs-no-key").save(base).tensors(with_head(lambda _: head)).config(["tie_word_embeddings"])
    variant.equals(ignoring=answer(Variant("x").save(base).folder))
    Variant("head-equal").save(base).tensors(with_head(lambda tensors: tensors[table])).equals()
    head_only = lambda tensors: {("lm_head.weight" if name == table else name): value for name, value in tensors.items()}
    Variant("head-only").save(base).tensors(head_only).equals()

    # Files.
    Variant("sharded").save(base, max_shard_size="12KB").equals()
    variant = Variant("index-of-tied-head").save(base, max_shard_size="12KB")
    index = variant.folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["lm_head.weight"] = content["weight_map"][table]
    index.write_text(json.dumps(content))
    variant.equals()
    buffers = lambda tensors: {**tensors, "transformer.h.0.self_attention.rotary_emb.inv_freq": torch.ones(4),
                               "transformer.h.1.self_attention.maskd_bias": torch.tensor([-1e9])}
    Variant("buffers").save(base).tensors(buffers).equals()
    Variant("float16").save(base.to(torch.float16)).equals()
    Variant("float32").save(base.to(torch.float32)).equals()
    base.to(torch.bfloat16)

    # Prefixes. transformers reads the first itself; the others are those of tools around it.
    made = Variant("prefix-none").save(base.transformer)
    made.equals()
    expected = Variant("x").save(base).folder
    for name, prefix in {
        "module": "module.", "peft": "base_model.model.", "compile": "_orig_mod.", "module-compile": "module._orig_mod.",
        "model": "model.",
    }.items():
        Variant(f"prefix-{name}").save(base).tensors(renamed(lambda n: prefix + n)).equals(as_folder=expected)
    bare = lambda n: n.removeprefix("transformer.")
    Variant("prefix-model-bare").save(base).tensors(renamed(lambda n: "model." + bare(n))).equals(as_folder=expected)
    mixed = lambda n: bare(n) if n.startswith("transformer.h.1.") else n
    Variant("prefix-mixed").save(base).tensors(renamed(mixed)).refused("begin in different ways", "no prefix", "`transformer.`")
    other = lambda n: "backbone." + n
    Variant("prefix-unknown").save(base).tensors(renamed(other)).refused("`backbone.transformer.`", "rename the tensors")

    # Quantized, or said to be.
    said = dict(quant_method="bitsandbytes", load_in_8bit=True)
    Variant("quantization-of-nothing").save(base).config(quantization_config=said).equals(as_folder=expected)
    weight = "transformer.h.0.self_attention.dense.weight"

    def gptq(tensors):
        matrix = tensors.pop(weight)
        name = weight.removesuffix("weight")
        rows, columns = matrix.shape
        return {**tensors, name + "qweight": torch.zeros(columns // 8, rows, dtype=torch.int32),
                name + "qzeros": torch.zeros(1, rows // 8, dtype=torch.int32), name + "scales": torch.ones(1, rows).half(),
                name + "g_idx": torch.zeros(columns, dtype=torch.int32)}

    gptq_config = dict(quant_method="gptq", bits=4, group_size=-1)
    Variant("quantized-gptq").save(base).tensors(gptq).config(quantization_config=gptq_config).refused("quantized", "gptq")
    Variant("quantized-gptq-unsaid").save(base).tensors(gptq).refused("quantized", "GPTQ")
    fp8 = lambda tensors: {**tensors, weight: tensors[weight].to(torch.float8_e4m3fn)}
    Variant("quantized-fp8").save(base).tensors(fp8).refused("quantized", "FP8")

    def int8(tensors):
        scale = tensors[weight].float().abs().amax(1)
        codes = (tensors[weight].float() / scale[:, None] * 127).round().to(torch.int8)
        return {**tensors, weight: codes, weight.removesuffix("weight") + "SCB": scale,
                weight + "_format": torch.zeros((), dtype=torch.uint8)}

    Variant("quantized-int8").save(base).tensors(int8).config(quantization_config=said).refused("quantized", "bitsandbytes")

    # What is no checkpoint that is read.
    variant = Variant("pickled").save(base)
    torch.save({"x": torch.zeros(1)}, variant.folder / "pytorch_model.bin")
    (variant.folder / "model.safetensors").unlink()
    variant.refused("pytorch_model.bin", "save_pretrained")
    Variant("variant").save(base, variant="bf16").refused("model.bf16.safetensors", "rename")
    variant = Variant("adapter-beside").save(base)
    (variant.folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    variant.refused("adapter_config.json", "merge_and_unload")
    variant = Variant("git-lfs").save(base)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "0" + "\nsize 52000\n"
    (variant.folder / "model.safetensors").write_text(pointer)
    variant.refused("model.safetensors", "git lfs pull")


def variants_of_4():
    """As the libraries of a year ago wrote them: `torch_dtype`, top-level `rope_theta`, `rope_scaling`."""
    Variant("old-grouped").save(model(1, GROUPED)).equals()
    Variant("old-multi-query").save(model(2, MULTI_QUERY)).equals()
    Variant("old-alibi").save(model(4, ALIBI)).equals()
    variant = Variant("old-theta").save(model(3, GROUPED, num_ln_in_parallel_attn=1, tie_word_embeddings=False, rope_theta=500042.0))
    variant.equals(ignoring=variant.without(rope_theta=10000.0))
    scaling = dict(rope_type="linear", factor=4.0)
    variant = Variant("old-rope-scaling").save(model(1, GROUPED, rope_scaling=scaling))
    variant.equals(ignoring=variant.without(["rope_scaling"]))


if __name__ == "__main__":
    if transformers.__version__ != PINNED.get(MAJOR):
        sys.exit(f"expected transformers {' or '.join(PINNED.values())}, found {transformers.__version__}")
    logging.disable(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    {5: variants_of_5, 4: variants_of_4}[MAJOR]()

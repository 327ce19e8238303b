// What the attention kernels share: the table of heads, the KV cache's layout, rotation, and tiles in shared memory.
#pragma once
#include "gpu.h"
#include "step_inputs.h"

constexpr int TILE_HEADS = 32;   // Query heads of a tile, at most.
constexpr float LOG2_E = 1.44269504f;

// Up to 32 query heads of one KV head. Groups may be ragged and of any size; a group of more heads has several tiles.
struct HeadTile {      // 32 bytes
  int kv_head;         // On this rank.
  int first_query;     // The first query head, on this rank.
  int queries;         // How many.
  int query_column;    // Where they begin in a row of qkv.
  int key_column;
  int value_column;
  int stores;          // 1 in the first tile of each KV head: it stores the keys and values.
  int reserved;        // 0
};

struct AttentionArgs {        // 128 bytes
  const StepInputs* step;
  const StepRow* rows;
  const StepSequence* sequences;
  const PrefillItem* items;
  const unsigned* tables;     // [sequences][table_stride]
  const HeadTile* tiles;      // [tiles]
  const float* qkv;           // [rows][qkv_stride]: for each group its query heads, its key, its value
  const float2* rotations;    // [positions][head_dim / 2]: cosine, sine; null: no rotation
  const float* slopes;        // [queries]: of ALiBi; null: none
  bf16* queries;              // [rows][y_stride]: rotated; written by rotate_store.cu, read by who does not rotate itself
  bf16* cache;                // The layer's: [blocks][kv_heads][2: key, value][BLOCK_TOKENS][head_dim]
  bf16* y;                    // [rows][y_stride]
  float* partials;            // [rows][tiles][splits][TILE_HEADS][head_dim + 2]; attention.cu only
  unsigned* tickets;          // [rows][tiles], zero between launches; attention.cu only
  int table_stride;
  int qkv_stride;
  int y_stride;               // Multiple of 8.
  int kv_heads;
};
static_assert(sizeof(HeadTile) == 32 && sizeof(AttentionArgs) == 128, "layout");

// The key of a position; its value lies BLOCK_TOKENS * D behind it.
template <int D> GPU_DEV bf16* key_of(const AttentionArgs& args, unsigned sequence, int kv_head, int position) {
  unsigned block = args.tables[(long long)sequence * args.table_stride + position / BLOCK_TOKENS];
  return args.cache + (((long long)block * args.kv_heads + kv_head) * 2 * BLOCK_TOKENS + position % BLOCK_TOKENS) * D;
}

GPU_DEV float2 rotate(float2 v, float2 by) { return make_float2(v.x * by.x - v.y * by.y, v.y * by.x + v.x * by.y); }

// Elements (i, i + D/2) of a head, rotated.
template <int D> GPU_DEV float2 rotated(const float* head, const float2* rotations, int position, int i) {
  float2 v = make_float2(head[i], head[i + D / 2]);
  return rotations ? rotate(v, rotations[position * (D / 2) + i]) : v;
}

// A tile of rows of D bf16 in pieces of 16 bytes, permuted so that 8 rows of a matrix lie in different banks.
template <int D> GPU_DEV int place(int row, int piece) {
  constexpr int PIECES = D / 8, ROWS_A_LINE = 8 / PIECES;
  return row * (D * 2) + ((piece ^ (row / ROWS_A_LINE % PIECES)) << 4);
}

// Where element `column` of a row lies.
template <int D> GPU_DEV bf16* element(unsigned char* tile, int row, int column) {
  return (bf16*)(tile + place<D>(row, column >> 3)) + (column & 7);
}

// bf16(slope · position) / √head_dim, in the exponent's base 2.
template <int D> GPU_DEV float alibi(float slope, int position) {
  float bias = from_bf16(to_bf16(slope * (float)position));
  return bias * (LOG2_E / sqrtf((float)D));
}

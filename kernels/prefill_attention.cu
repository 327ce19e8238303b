// Attention for rows of which a sequence has many: chunks of a prompt. Flash attention over the paged KV cache, causal.
// rotate_store.cu runs first; attend (attention.cu) serves the rows of the same batch that decode.
//
// The 128 rows of a block's product are pairs of a row and a query head of one KV head: 128 / heads adjacent rows with all
// heads of the tile. So keys and values are read once for all heads that share them, and the causal edge is a few rows wide.
// Eight warps have 16 pairs each. Tiles of 64 keys and values pass through two stages of shared memory (cp.async), their
// scores through registers, with a running maximum and sum (online softmax).
//
// The order of the sums of a pair depends on absolute positions alone: a tile behind a row's position changes no bit, so it
// does not matter how a prompt is cut into chunks. (It is not the order of attention.cu, which --deterministic therefore uses
// for all rows.)
//
// Bytes that must move: keys and values once, rows · heads · head_dim · 4 for queries and outputs. From the L2 cache, each
// block reads (position + 1) · head_dim · 4: a prompt of 2,048 at 180B over 8 (29 heads, 4 rows a block) 134 MB a layer, about
// 35 µs. Multiplications: 2 · rows · positions · heads · head_dim · 2 / 2 (causal): 15.6 GFLOP a layer, 50 µs at 312 TFLOP/s.
//
// Grid: x = tiles, y = items of the bucket: the longest items of all tiles come first. Block: 256 threads. Shared memory:
// 256 · head_dim + 512 · head_dim bytes.
// An item is a sequence and an index: the host gives each prefilling sequence ceil(rows / 4) of them, the last first where it
// can, since they are the longest; blocks that a tile of fewer heads does not need end at once.
#include "attention.h"

constexpr int PAIRS = 128, KEYS = 64, PREFILL_THREADS = 256;
constexpr unsigned ONES = 0x3f803f80;  // Two of bf16.

template <int D> struct Prefill {
  static constexpr int TILE_BYTES = KEYS * D * 2;

  const AttentionArgs& args;
  const HeadTile tile;
  const StepSequence sequence;
  unsigned char *query, *tiles;  // [PAIRS][D]; [stage][keys, values][KEYS][D]
  unsigned table;
  int lane, warp, row0, rows, start;  // rows of the sequence that the block has; the position of its row 0
  // Of weighted values; of the weights, in each of eight equal columns: the tensor cores add them up, too.
  float sums[D / 8][4], weight[4];
  float largest[2], slope[2];
  int position[2], least, most;  // Of this lane's pairs; of all pairs of the warp.

  GPU_DEV Prefill(const AttentionArgs& args, PrefillItem item, unsigned char* shared)
      : args(args), tile(args.tiles[blockIdx.x]), sequence(args.sequences[item.sequence]), query(shared) {
    tiles = shared + PAIRS * D * 2;
    table = item.sequence;
    lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    int rows_a_block = PAIRS / tile.queries, first = (int)item.index * rows_a_block;
    rows = min(rows_a_block, (int)sequence.rows - first);
    row0 = (int)sequence.first_row + first, start = (int)sequence.start + first;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int pair = warp * 16 + (lane >> 2) + half * 8, head = pair % tile.queries;
      position[half] = start + min(pair / tile.queries, rows - 1);
      slope[half] = args.slopes ? args.slopes[tile.first_query + head] : 0.0f;
      largest[half] = minus_infinity();
    }
    least = start + min(warp * 16 / tile.queries, rows - 1);
    most = start + min((warp * 16 + 15) / tile.queries, rows - 1);
#pragma unroll
    for (int j = 0; j < 4; j++) weight[j] = 0.0f;
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
      for (int j = 0; j < 4; j++) sums[n][j] = 0.0f;
  }

  GPU_DEV void load_query() {
    for (int i = threadIdx.x; i < PAIRS * D / 8; i += PREFILL_THREADS) {
      int pair = i / (D / 8), piece = i % (D / 8), row = pair / tile.queries, head = pair % tile.queries;
      const bf16* from = args.queries;
      if (row < rows) from += (long long)(row0 + row) * args.y_stride + (tile.first_query + head) * D + piece * 8;
      copy_async(query + place<D>(pair, piece), from, row < rows);
    }
  }

  GPU_DEV unsigned char* keys(int index) const { return tiles + (index & 1) * 2 * TILE_BYTES; }

  GPU_DEV void load_tile(int index) {
    int end = start + rows;
    for (int i = threadIdx.x; i < KEYS * D / 8; i += PREFILL_THREADS) {
      int at = i / (D / 8), piece = i % (D / 8), p = index * KEYS + at;
      bool ok = p < end;
      const bf16* from = ok ? key_of<D>(args, table, tile.kv_head, p) + piece * 8 : args.cache;
      copy_async(keys(index) + place<D>(at, piece), from, ok);
      copy_async(keys(index) + TILE_BYTES + place<D>(at, piece), ok ? from + BLOCK_TOKENS * D : from, ok);
    }
  }

  // Adds the tile of keys and values that begins at position `begin`.
  GPU_DEV void add(const unsigned char* keys, int begin) {
    if (begin > most) return;
    const unsigned char* values = keys + TILE_BYTES;
    float scores[KEYS / 8][4];
    multiply_keys(scores, keys);
    float by = LOG2_E / sqrtf((float)D);
    if (args.slopes) add_slopes(scores, begin, by), by = 1.0f;
    if (begin + KEYS - 1 > least) mask(scores, begin);
    unsigned weights[KEYS / 8][2];
#pragma unroll
    for (int half = 0; half < 2; half++) weigh(weights, scores, half, by);
#pragma unroll
    for (int step = 0; step < KEYS / 16; step++) {
      unsigned a[4] = {weights[2 * step][0], weights[2 * step][1], weights[2 * step + 1][0], weights[2 * step + 1][1]};
#pragma unroll
      for (int n = 0; n < D / 16; n++) {
        unsigned b[4];
        load_matrices_transposed(b, values + place<D>(step * 16 + (lane & 15), n * 2 + (lane >> 4)));
        multiply_add(sums[2 * n], a, b[0], b[1]);
        multiply_add(sums[2 * n + 1], a, b[2], b[3]);
      }
      multiply_add(weight, a, ONES, ONES);
    }
  }

  // scores = q·Kᵀ.
  GPU_DEV void multiply_keys(float (&scores)[KEYS / 8][4], const unsigned char* keys) {
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
      for (int j = 0; j < 4; j++) scores[n][j] = 0.0f;
#pragma unroll
    for (int step = 0; step < D / 16; step++) {
      unsigned a[4];
      load_matrices(a, query + place<D>(warp * 16 + (lane & 15), step * 2 + (lane >> 4)));
#pragma unroll
      for (int n = 0; n < KEYS / 16; n++) {
        unsigned b[4];
        load_matrices(b, keys + place<D>(n * 16 + (lane & 7) + ((lane >> 4) << 3), step * 2 + ((lane >> 3) & 1)));
        multiply_add(scores[2 * n], a, b[0], b[1]);
        multiply_add(scores[2 * n + 1], a, b[2], b[3]);
      }
    }
  }

  // The position of a score.
  GPU_DEV int position_of(int begin, int n, int j) const { return begin + n * 8 + (lane & 3) * 2 + (j & 1); }

  // Scales to base 2 and adds the bias of positions.
  GPU_DEV void add_slopes(float (&scores)[KEYS / 8][4], int begin, float by) {
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
      for (int j = 0; j < 4; j++)
        scores[n][j] = scores[n][j] * by + alibi<D>(slope[j >> 1], position_of(begin, n, j));
  }

  // Takes out what is behind a pair's position.
  GPU_DEV void mask(float (&scores)[KEYS / 8][4], int begin) {
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
      for (int j = 0; j < 4; j++)
        if (position_of(begin, n, j) > position[j >> 1]) scores[n][j] = minus_infinity();
  }

  // Scores of a pair, times `by`, become weights as the tensor cores take them, against the new maximum; what was summed so
  // far is scaled to it.
  GPU_DEV void weigh(unsigned (&weights)[KEYS / 8][2], const float (&scores)[KEYS / 8][4], int half, float by) {
    float top = minus_infinity();
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) top = fmaxf(top, fmaxf(scores[n][half * 2], scores[n][half * 2 + 1]));
    top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, 1));
    top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, 2));
    // The first tile has position 0, which every pair sees: the new maximum is finite.
    top = fmaxf(largest[half], top * by);
    float factor = exp2_fast(largest[half] - top);
    largest[half] = top;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
      weights[n][half] = pack_bf16(exp2_fast(fmaf(scores[n][half * 2], by, -top)),
                                   exp2_fast(fmaf(scores[n][half * 2 + 1], by, -top)));
#pragma unroll
    for (int n = 0; n < D / 8; n++) sums[n][half * 2] *= factor, sums[n][half * 2 + 1] *= factor;
    weight[half * 2] *= factor, weight[half * 2 + 1] *= factor;
  }

  GPU_DEV void store() {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float sum = weight[half * 2];
      int pair = warp * 16 + (lane >> 2) + half * 8, row = pair / tile.queries, head = pair % tile.queries;
      if (row >= rows) continue;
      bf16* to = args.y + (long long)(row0 + row) * args.y_stride + (tile.first_query + head) * D + (lane & 3) * 2;
#pragma unroll
      for (int n = 0; n < D / 8; n++)
        *(unsigned*)(to + n * 8) = pack_bf16(sums[n][half * 2] / sum, sums[n][half * 2 + 1] / sum);
    }
  }

  GPU_DEV void run() {
    int last = (start + rows - 1) / KEYS;
    load_query();
    load_tile(0);
    copy_async_commit();
    for (int index = 0; index <= last; index++) {
      copy_async_wait<0>();
      // All have done with the tile before: its place is free.
      __syncthreads();
      if (index < last) load_tile(index + 1);
      copy_async_commit();
      add(keys(index), index * KEYS);
    }
    store();
  }
};

template <int D> GPU_DEV void prefill(const AttentionArgs& args, unsigned char* shared) {
  if (blockIdx.y >= args.step->prefill_items) return;
  PrefillItem item = args.items[blockIdx.y];
  int rows_a_block = PAIRS / args.tiles[blockIdx.x].queries;
  if ((int)item.index * rows_a_block >= (int)args.sequences[item.sequence].rows) return;
  Prefill<D>(args, item, shared).run();
}

extern "C" __global__ void __launch_bounds__(PREFILL_THREADS, 2) prefill_attention_64(GPU_CONST AttentionArgs args) {
  GPU_SHARED(shared);
  prefill<64>(args, shared);
}
extern "C" __global__ void __launch_bounds__(PREFILL_THREADS, 2) prefill_attention_32(GPU_CONST AttentionArgs args) {
  GPU_SHARED(shared);
  prefill<32>(args, shared);
}
extern "C" __global__ void __launch_bounds__(PREFILL_THREADS, 2) prefill_attention_16(GPU_CONST AttentionArgs args) {
  GPU_SHARED(shared);
  prefill<16>(args, shared);
}

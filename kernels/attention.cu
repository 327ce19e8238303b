// Launch ② of a layer at decode: softmax(q·Kᵀ)·V over the paged KV cache, one query position at a time; in `rotate_attend`
// with rotation of the query, and rotation and store of the key and the value of that position.
//
// Flash decoding. The sequence is cut at multiples of SPLIT positions; a block has one split, up to 32 query heads of one
// KV head, and one row. So keys and values are read once for the whole group, and one long sequence keeps many
// multiprocessors busy. Each of the four warps has 32 positions of its own: it starts the copies of all its keys and
// values at once, multiplies on the tensor cores (heads are the 16-row operand), and meets the others only at the end. The
// block that comes last of a row and tile combines the splits in their order, so that no launch follows.
//
// The order of every sum depends on absolute positions alone: not on the batch, nor on which block comes last.
//
// The kernel does not rely on keys that other blocks of the same launch store: in rotate_attend, which is for batches where
// each sequence has one row, the block whose split has the position takes its key and value from qkv. Where a sequence has
// several rows (drafts, chunks of a prompt), rotate_store.cu runs first and `attend` follows.
//
// Bytes that must move for a row at position p: (p + 1) · KV heads · head_dim · 4. At 180B over 8, position 2,047: 524 KB a
// layer and row, 0.26 µs at 2,039 GB/s: 21 µs a token and row over 80 layers. From the L2 cache, in addition, every split
// reads the query (heads · head_dim · 4) and writes and reads as much.
//
// Grid: x = ceil(positions / SPLIT), of the longest sequence that the bucket admits; y = tiles; z = rows of the bucket. Block:
// 128 threads. Shared memory: 512 · head_dim + 64 · head_dim + 1,024 bytes, which limits positions to 256 · head_dim.
#include "attention.h"

constexpr int SPLIT = 128, WARPS = 4, WARP_POSITIONS = SPLIT / WARPS;

template <int D, bool ROTATE> struct Attend {
  static constexpr int TILE_BYTES = WARP_POSITIONS * D * 2;
  // Of a split: a weighted sum of values for each head, then the largest score and the sum of weights for each.
  static constexpr int PARTIAL = TILE_HEADS * (D + 2);

  const AttentionArgs& args;
  const HeadTile tile;
  unsigned char *keys, *values;  // This warp's; later its sums of values.
  unsigned char *shared, *query;
  float *largest, *weight;       // [WARPS][TILE_HEADS]
  int row, position, warp, lane, begin;  // `begin`: the warp's first position
  unsigned sequence;
  float scores[2][WARP_POSITIONS / 8][4], sums[2][D / 8][4];

  GPU_DEV Attend(const AttentionArgs& args, unsigned char* shared)
      : args(args), tile(args.tiles[blockIdx.y]), shared(shared) {
    row = blockIdx.z, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    keys = shared + warp * 2 * TILE_BYTES, values = keys + TILE_BYTES;
    query = shared + WARPS * 2 * TILE_BYTES;
    largest = (float*)(query + TILE_HEADS * D * 2), weight = largest + WARPS * TILE_HEADS;
    sequence = args.rows[row].sequence, position = (int)args.rows[row].position;
    begin = blockIdx.x * SPLIT + warp * WARP_POSITIONS;
  }

  // Starts the copies: keys in one group, values in the next.
  GPU_DEV void load() {
    // The warp copies so many positions at a time; its first lies at the beginning of a block.
    constexpr int AT_ONCE = 32 / (D / 8), BLOCKS = WARP_POSITIONS / BLOCK_TOKENS;
    int end = ROTATE ? position : position + 1, first = lane / (D / 8), piece = lane % (D / 8);
    const bf16* blocks[BLOCKS];
#pragma unroll
    for (int i = 0; i < BLOCKS; i++) {
      int p = begin + i * BLOCK_TOKENS;
      blocks[i] = (p < end ? key_of<D>(args, sequence, tile.kv_head, p) : args.cache) + piece * 8;
    }
#pragma unroll
    for (int which = 0; which < 2; which++) {
#pragma unroll
      for (int i = 0; i < WARP_POSITIONS / AT_ONCE; i++) {
        int at = i * AT_ONCE + first;
        const bf16* from = blocks[i * AT_ONCE / BLOCK_TOKENS] + (which * BLOCK_TOKENS + at % BLOCK_TOKENS) * D;
        copy_async((which ? values : keys) + place<D>(at, piece), from, begin + at < end);
      }
      copy_async_commit();
    }
  }

  GPU_DEV void load_query() {
    if (ROTATE) {
      const float* heads = args.qkv + (long long)row * args.qkv_stride + tile.query_column;
      // All loads first: they take as long as one. A thread has the same columns of several heads.
      constexpr int HEADS = TILE_HEADS * D / 2 / (WARPS * 32), STEP = TILE_HEADS / HEADS;
      int first = threadIdx.x / (D / 2), j = threadIdx.x % (D / 2);
      float2 v[HEADS];
#pragma unroll
      for (int i = 0; i < HEADS; i++) {
        const float* head = heads + min(first + i * STEP, tile.queries - 1) * D + j;
        v[i] = make_float2(head[0], head[D / 2]);
      }
      float2 by = args.rotations ? args.rotations[position * (D / 2) + j] : make_float2(1.0f, 0.0f);
#pragma unroll
      for (int i = 0; i < HEADS; i++) {
        int head = first + i * STEP;
        float2 r = args.rotations ? rotate(v[i], by) : v[i];
        if (head >= tile.queries) r = make_float2(0.0f, 0.0f);
        *element<D>(query, head, j) = to_bf16(r.x);
        *element<D>(query, head, j + D / 2) = to_bf16(r.y);
      }
    } else {
      const bf16* heads = args.queries + (long long)row * args.y_stride + tile.first_query * D;
#pragma unroll 2
      for (int i = threadIdx.x; i < TILE_HEADS * D / 8; i += WARPS * 32) {
        int head = i / (D / 8), piece = i % (D / 8);
        uint4 v = make_uint4(0, 0, 0, 0);
        if (head < tile.queries) v = *(const uint4*)(heads + head * D + piece * 8);
        *(uint4*)(query + place<D>(head, piece)) = v;
      }
    }
  }

  // Puts the row's own key and value, rotated, into the tile and into the cache.
  GPU_DEV void store_own() {
    const float* head = args.qkv + (long long)row * args.qkv_stride;
    bf16* key = key_of<D>(args, sequence, tile.kv_head, position);
    bf16* value = key + BLOCK_TOKENS * D;
    for (int i = lane; i < D / 2; i += 32) {
      float2 k = rotated<D>(head + tile.key_column, args.rotations, position, i);
      bf16 low = to_bf16(k.x), high = to_bf16(k.y);
      bf16 first = to_bf16(head[tile.value_column + i]), second = to_bf16(head[tile.value_column + i + D / 2]);
      *element<D>(keys, position - begin, i) = low, *element<D>(keys, position - begin, i + D / 2) = high;
      *element<D>(values, position - begin, i) = first, *element<D>(values, position - begin, i + D / 2) = second;
      if (tile.stores) {
        key[i] = low, key[i + D / 2] = high;
        value[i] = first, value[i + D / 2] = second;
      }
    }
  }

  // scores = q·Kᵀ, scaled, in base 2; -inf behind the position.
  GPU_DEV void score() {
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
      for (int n = 0; n < WARP_POSITIONS / 8; n++)
#pragma unroll
        for (int j = 0; j < 4; j++) scores[m][n][j] = 0.0f;
#pragma unroll
    for (int step = 0; step < D / 16; step++) {
      unsigned a[2][4];
#pragma unroll
      for (int m = 0; m < 2; m++) load_matrices(a[m], query + place<D>(m * 16 + (lane & 15), step * 2 + (lane >> 4)));
#pragma unroll
      for (int n = 0; n < WARP_POSITIONS / 16; n++) {
        unsigned b[4];
        load_matrices(b, keys + place<D>(n * 16 + (lane & 7) + ((lane >> 4) << 3), step * 2 + ((lane >> 3) & 1)));
#pragma unroll
        for (int m = 0; m < 2; m++) {
          multiply_add(scores[m][2 * n], a[m], b[0], b[1]);
          multiply_add(scores[m][2 * n + 1], a[m], b[2], b[3]);
        }
      }
    }
    float scale = LOG2_E / sqrtf((float)D);
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        int head = m * 16 + (lane >> 2) + (j >> 1) * 8;
        float slope = args.slopes && head < tile.queries ? args.slopes[tile.first_query + head] : 0.0f;
#pragma unroll
        for (int n = 0; n < WARP_POSITIONS / 8; n++) {
          int p = begin + n * 8 + (lane & 3) * 2 + (j & 1);
          float s = scores[m][n][j] * scale + (args.slopes ? alibi<D>(slope, p) : 0.0f);
          scores[m][n][j] = p <= position ? s : minus_infinity();
        }
      }
  }

  // Scores become weights (rounded to bf16, as they will be multiplied); their largest and their sum go to shared memory.
  GPU_DEV void weigh() {
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float top = minus_infinity(), sum = 0.0f;
#pragma unroll
        for (int n = 0; n < WARP_POSITIONS / 8; n++)
          top = fmaxf(top, fmaxf(scores[m][n][half * 2], scores[m][n][half * 2 + 1]));
        top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, 1));
        top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, 2));
        float base = top == minus_infinity() ? 0.0f : top;
#pragma unroll
        for (int n = 0; n < WARP_POSITIONS / 8; n++)
#pragma unroll
          for (int j = half * 2; j < half * 2 + 2; j++) {
            float w = from_bf16(to_bf16(exp2_fast(scores[m][n][j] - base)));
            scores[m][n][j] = w;
            sum += w;
          }
        sum += __shfl_xor_sync(FULL_WARP, sum, 1);
        sum += __shfl_xor_sync(FULL_WARP, sum, 2);
        int head = m * 16 + (lane >> 2) + half * 8;
        if ((lane & 3) == 0) largest[warp * TILE_HEADS + head] = top, weight[warp * TILE_HEADS + head] = sum;
      }
  }

  // sums = weights · V.
  GPU_DEV void add_values() {
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
      for (int n = 0; n < D / 8; n++)
#pragma unroll
        for (int j = 0; j < 4; j++) sums[m][n][j] = 0.0f;
#pragma unroll
    for (int step = 0; step < WARP_POSITIONS / 16; step++) {
      unsigned a[2][4];
#pragma unroll
      for (int m = 0; m < 2; m++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const float* pair = &scores[m][2 * step + (j >> 1)][(j & 1) * 2];
          a[m][j] = pack_bf16(pair[0], pair[1]);
        }
#pragma unroll
      for (int n = 0; n < D / 16; n++) {
        unsigned b[4];
        load_matrices_transposed(b, values + place<D>(step * 16 + (lane & 15), n * 2 + (lane >> 4)));
#pragma unroll
        for (int m = 0; m < 2; m++) {
          multiply_add(sums[m][2 * n], a[m], b[0], b[1]);
          multiply_add(sums[m][2 * n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

  // Where a sum lies: [TILE_HEADS][D] f32, 8 columns at a time permuted so that 8 heads lie in different banks.
  GPU_DEV static int sum_place(int head, int column) { return head * D + (column ^ (head % (D / 8) * 8)); }

  // The warp's sums take the place of its keys and values.
  GPU_DEV void leave_sums() {
    float* to = (float*)keys;
    __syncwarp();
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
      for (int n = 0; n < D / 8; n++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          int head = m * 16 + (lane >> 2) + half * 8, column = n * 8 + (lane & 3) * 2;
          *(float2*)(to + sum_place(head, column)) = make_float2(sums[m][n][half * 2], sums[m][n][half * 2 + 1]);
        }
  }

  GPU_DEV float* partial(int split) const {
    return args.partials + (((long long)row * gridDim.y + blockIdx.y) * gridDim.x + split) * PARTIAL;
  }

  // Adds up the warps. One split alone is the answer; else it is left for who comes last.
  GPU_DEV void combine_warps(bool alone) {
    float* left = partial(blockIdx.x);
    for (int i = threadIdx.x * 4; i < tile.queries * D; i += WARPS * 32 * 4) {
      int head = i / D;
      float top = minus_infinity(), sum = 0.0f;
      float4 y = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
      for (int w = 0; w < WARPS; w++) top = fmaxf(top, largest[w * TILE_HEADS + head]);
#pragma unroll
      for (int w = 0; w < WARPS; w++) {
        float factor = exp2_fast(largest[w * TILE_HEADS + head] - top);
        sum += weight[w * TILE_HEADS + head] * factor;
        const float* sums_of_warp = (const float*)(shared + w * 2 * TILE_BYTES);
        add_scaled(y, *(const float4*)(sums_of_warp + sum_place(head, i % D)), factor);
      }
      if (alone) {
        store(i, y, sum);
      } else {
        *(float4*)(left + i) = y;
        if (i % D == 0) *(float2*)(left + TILE_HEADS * D + head * 2) = make_float2(top, sum);
      }
    }
  }

  // The largest score and the sum of weights of each split and head come to shared memory; then the largest is replaced by
  // the factor that brings the split to the whole row's, and the sums of values are added in the order of the splits.
  GPU_DEV void combine_splits(int splits) {
    float2* parts = (float2*)shared;
    // Loads first, as they take as long as one.
    constexpr int AHEAD = 4;
    for (int first = warp; first < splits; first += AHEAD * WARPS) {
      float2 part[AHEAD];
#pragma unroll
      for (int i = 0; i < AHEAD; i++) {
        int split = min(first + i * WARPS, splits - 1);
        part[i] = load_shared_data((const float2*)(partial(split) + TILE_HEADS * D + min(lane, tile.queries - 1) * 2));
      }
#pragma unroll
      for (int i = 0; i < AHEAD; i++)
        if (first + i * WARPS < splits) parts[(first + i * WARPS) * TILE_HEADS + lane] = part[i];
    }
    __syncthreads();
    if ((int)threadIdx.x < tile.queries) {
      float top = minus_infinity(), sum = 0.0f;
      for (int split = 0; split < splits; split++) top = fmaxf(top, parts[split * TILE_HEADS + threadIdx.x].x);
      for (int split = 0; split < splits; split++) {
        float2* part = parts + split * TILE_HEADS + threadIdx.x;
        part->x = exp2_fast(part->x - top);
        sum += part->y * part->x;
      }
      weight[threadIdx.x] = sum;
    }
    __syncthreads();
    for (int i = threadIdx.x * 4; i < tile.queries * D; i += WARPS * 32 * 4) {
      int head = i / D;
      float4 y = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 16
      for (int split = 0; split < splits; split++)
        add_scaled(y, load_shared_data((const float4*)(partial(split) + i)), parts[split * TILE_HEADS + head].x);
      store(i, y, weight[head]);
    }
  }

  GPU_DEV static void add_scaled(float4& y, float4 v, float factor) {
    y.x += v.x * factor, y.y += v.y * factor, y.z += v.z * factor, y.w += v.w * factor;
  }

  GPU_DEV void store(int i, float4 y, float sum) {
    uint2 packed;
    packed.x = pack_bf16(y.x / sum, y.y / sum), packed.y = pack_bf16(y.z / sum, y.w / sum);
    *(uint2*)(args.y + (long long)row * args.y_stride + tile.first_query * D + i) = packed;
  }

  GPU_DEV void run(unsigned* came) {
    load();
    load_query();
    __syncthreads();
    if (ROTATE && position >= begin && position < begin + WARP_POSITIONS) {
      copy_async_wait<0>();
      __syncwarp();
      store_own();
    }
    copy_async_wait<1>();
    __syncwarp();
    score();
    weigh();
    copy_async_wait<0>();
    __syncwarp();
    add_values();
    leave_sums();
    __syncthreads();
    int splits = position / SPLIT + 1;
    combine_warps(splits == 1);
    if (splits == 1) return;
    unsigned* ticket = args.tickets + row * gridDim.y + blockIdx.y;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) *came = atomicAdd(ticket, 1u);
    __syncthreads();
    if (*came != (unsigned)(splits - 1)) return;
    __threadfence();
    if (threadIdx.x == 0) *ticket = 0;
    combine_splits(splits);
  }
};

template <int D, bool ROTATE> GPU_DEV void attend(const AttentionArgs& args, unsigned char* shared) {
  __shared__ unsigned came;
  if (blockIdx.z >= args.step->rows) return;
  StepRow row = args.rows[blockIdx.z];
  if (row.prefill || blockIdx.x * SPLIT > row.position) return;
  Attend<D, ROTATE>(args, shared).run(&came);
}

extern "C" __global__ void __launch_bounds__(128, 3) attend_64(GPU_CONST AttentionArgs args) {
  GPU_SHARED(shared);
  attend<64, false>(args, shared);
}
extern "C" __global__ void __launch_bounds__(128, 3) attend_32(GPU_CONST AttentionArgs args) {
  GPU_SHARED(shared);
  attend<32, false>(args, shared);
}
extern "C" __global__ void __launch_bounds__(128, 3) attend_16(GPU_CONST AttentionArgs args) {
  GPU_SHARED(shared);
  attend<16, false>(args, shared);
}
extern "C" __global__ void __launch_bounds__(128, 3) rotate_attend_64(GPU_CONST AttentionArgs args) {
  GPU_SHARED(shared);
  attend<64, true>(args, shared);
}
extern "C" __global__ void __launch_bounds__(128, 3) rotate_attend_32(GPU_CONST AttentionArgs args) {
  GPU_SHARED(shared);
  attend<32, true>(args, shared);
}
extern "C" __global__ void __launch_bounds__(128, 3) rotate_attend_16(GPU_CONST AttentionArgs args) {
  GPU_SHARED(shared);
  attend<16, true>(args, shared);
}

// y = x·Wᵀ + b for few rows of x: the loop that product.cu and norm_product.cu share.
//
// A product is cut into tiles of TILE_N outputs, a tile into chunks of TILE_K inputs. All (tile, chunk) units, in that
// order, are dealt out evenly: block i of n takes units [units·i/n, units·(i+1)/n), whatever the shapes, so that every
// multiprocessor streams the same number of weight bytes and no shape has a tail wave. A block's pipeline runs through
// its units without a stop; where a tile ends it adds the bias, applies the activation and stores. A tile that is cut
// between blocks leaves f32 parts in a workspace, and the block that comes last adds them in the order of the inputs.
//
// On the tensor cores weights are the 16-row operand and activations the 8-column one, so a single row wastes no loads:
// a weight enters shared memory once (cp.async, 16 bytes, evict-first) and registers once (ldmatrix). Each warp owns 16
// outputs and all rows.
//
// The order of the sum of an output depends on the shapes and the number of blocks alone: not on how many rows there are,
// nor on which instance (8, 16, 32 or 64 rows) computes them. Rows beyond the last in use are zeros.
#pragma once
#include "gelu.h"
#include "moments.h"

constexpr int TILE_N = 64;            // Outputs of a tile: 16 for each warp.
constexpr int TILE_K = 128;           // Inputs of a chunk: 256 adjacent bytes of each weight row.
constexpr int PRODUCT_THREADS = 128;

// What becomes of an output.
constexpr int STORE_F32 = 0, STORE_BF16 = 1, STORE_GELU_BF16 = 2;

struct ProductPart {   // 72 bytes
  const bf16* weight;  // [outputs][weight_stride]
  const void* x;       // [rows][x_stride]: bf16 in product.cu, f32 in norm_product.cu
  const float* scale;  // [inputs], of the norm; norm_product.cu only
  const float* shift;  // [inputs]
  const float* bias;   // [outputs], or null
  void* y;             // [rows][y_stride]: f32 or bf16, as `store` says
  int outputs;         // May be 0.
  int inputs;          // Multiple of 8; may be 0.
  int weight_stride;   // Multiple of 8.
  int x_stride;        // Multiple of 8.
  int y_stride;
  int store;
};

struct ProductArgs {        // 200 bytes
  ProductPart part[2];      // The second is all 0 where there is one alone.
  const unsigned* rows;     // Rows in use.
  const unsigned* gather;   // Row r of x is gather[r]; null: r. norm_product.cu only.
  const float2* moments;    // [rows][moment_stride], of x; norm_product.cu only
  float* partials;          // [row tiles][blocks][2][TILE_N * ROWS]
  unsigned* tickets;        // [row tiles][tiles], zero between launches
  float eps;
  int moment_stride;
  int concatenated;         // 0: two products over the same inputs. 1: one sum over the inputs of both parts; bias, y,
                            // outputs and store are those of part 0.
  int stages;               // Of the pipeline, 2 to 6.
};
static_assert(sizeof(ProductPart) == 72 && sizeof(ProductArgs) == 200, "layout");

// Where a unit lies.
struct Unit {
  int part, output, input;  // The part, its first output, its first input.
};

template <int ROWS, bool NORM> struct Product {
  static constexpr int WEIGHT_BYTES = TILE_N * TILE_K * 2, STAGE_BYTES = WEIGHT_BYTES + ROWS * TILE_K * 2;
  static constexpr int ROWS_PER_THREAD = ROWS / 4;

  const ProductArgs& args;
  unsigned char* shared;
  float2* normalizers;  // [ROWS], behind the stages; NORM only
  unsigned long long policy;
  int row0, rows;
  int chunks0, chunks, tiles0, tiles, units;
  // Two chunks ahead in NORM: four columns of every fourth row, normalized when they are stored.
  float4 ahead[NORM ? ROWS_PER_THREAD : 1], ahead_scale, ahead_shift;
  float sums[ROWS / 8][4];

  GPU_DEV Product(const ProductArgs& args, unsigned char* shared) : args(args), shared(shared) {
    normalizers = (float2*)(shared + args.stages * STAGE_BYTES);
    policy = evict_first();
    row0 = blockIdx.y * ROWS;
    rows = min((int)*args.rows - row0, ROWS);
    chunks0 = (args.part[0].inputs + TILE_K - 1) / TILE_K;
    int chunks1 = (args.part[1].inputs + TILE_K - 1) / TILE_K;
    chunks = args.concatenated ? chunks0 + chunks1 : max(chunks0, chunks1);
    tiles0 = (args.part[0].outputs + TILE_N - 1) / TILE_N;
    int tiles1 = args.concatenated ? 0 : (args.part[1].outputs + TILE_N - 1) / TILE_N;
    tiles = tiles0 + tiles1;
    units = tiles * chunks;
  }

  GPU_DEV int first_unit(int block) const { return (int)((long long)units * block / (int)gridDim.x); }
  GPU_DEV int block_of(int unit) const { return (int)(((long long)(unit + 1) * (int)gridDim.x - 1) / units); }

  GPU_DEV Unit locate(int tile, int chunk) const {
    if (args.concatenated) {
      int second = chunk >= chunks0;
      return Unit{second, tile * TILE_N, (chunk - (second ? chunks0 : 0)) * TILE_K};
    }
    int second = tile >= tiles0;
    return Unit{second, (tile - (second ? tiles0 : 0)) * TILE_N, chunk * TILE_K};
  }

  // Outputs of the sum that `at` adds to.
  GPU_DEV int outputs(const Unit& at) const { return part(args.concatenated ? 0 : at.part).outputs; }
  GPU_DEV const ProductPart& part(int second) const { return second ? args.part[1] : args.part[0]; }

  // 256-byte rows in 16 pieces of 16 bytes, permuted so that the 8 rows of a matrix lie in different banks.
  GPU_DEV static int place(int row, int piece) { return row * (TILE_K * 2) + ((piece ^ (row & 7)) << 4); }
  GPU_DEV unsigned char* weights(int stage) const { return shared + stage * STAGE_BYTES; }
  GPU_DEV unsigned char* inputs(int stage) const { return shared + stage * STAGE_BYTES + WEIGHT_BYTES; }

  // Starts the copies of a unit.
  GPU_DEV void load(const Unit& at, int stage) {
    const ProductPart& p = part(at.part);
    int row = threadIdx.x >> 4, piece = threadIdx.x & 15, k = at.input + piece * 8, left = outputs(at) - at.output;
    bool inside = k < p.inputs;
    const bf16* from = p.weight + (long long)(at.output + row) * p.weight_stride + k;
#pragma unroll
    for (int i = 0; i < TILE_N / 8; i++) {
      bool ok = inside && row + 8 * i < left;
      copy_async(weights(stage) + place(row + 8 * i, piece), ok ? from + (long long)(8 * i) * p.weight_stride : p.weight,
                 ok, policy);
    }
    if (NORM) return;
    const bf16* x = (const bf16*)p.x;
#pragma unroll
    for (int i = 0; i < ROWS / 8; i++) {
      int r = row + 8 * i;
      bool ok = inside && r < rows;
      copy_async(inputs(stage) + place(r, piece), ok ? x + (long long)(row0 + r) * p.x_stride + k : x, ok);
    }
  }

  // Fetches a chunk of x and of the norm into registers.
  GPU_DEV void fetch(const Unit& at) {
    const ProductPart& p = part(at.part);
    int k = at.input + (threadIdx.x & 31) * 4;
    // A warp whose first row is not in use has none.
    bool inside = k < p.inputs && (int)(threadIdx.x >> 5) < rows;
    float4 zero = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    ahead_scale = inside ? *(const float4*)(p.scale + k) : zero;
    ahead_shift = inside ? *(const float4*)(p.shift + k) : zero;
#pragma unroll
    for (int i = 0; i < ROWS_PER_THREAD; i++) {
      int r = (threadIdx.x >> 5) + 4 * i;
      ahead[i] = zero;
      if (inside && r < rows) {
        int source = args.gather ? args.gather[row0 + r] : row0 + r;
        ahead[i] = *(const float4*)((const float*)p.x + (long long)source * p.x_stride + k);
      }
    }
  }

  // Normalizes what was fetched into shared memory, as bf16.
  GPU_DEV void store_inputs(int stage) {
    int column = threadIdx.x & 31;
#pragma unroll
    for (int i = 0; i < ROWS_PER_THREAD; i++) {
      int r = (threadIdx.x >> 5) + 4 * i;
      float2 by = normalizers[r];
      float4 x = ahead[i];
      uint2 packed;
      packed.x = pack_bf16(normalize(x.x, by, ahead_scale.x, ahead_shift.x), normalize(x.y, by, ahead_scale.y, ahead_shift.y));
      packed.y = pack_bf16(normalize(x.z, by, ahead_scale.z, ahead_shift.z), normalize(x.w, by, ahead_scale.w, ahead_shift.w));
      *(uint2*)(inputs(stage) + place(r, column >> 1) + (column & 1) * 8) = packed;
    }
  }

  // Adds a chunk to the sums.
  GPU_DEV void multiply(int stage) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const unsigned char *w = weights(stage), *x = inputs(stage);
#pragma unroll
    for (int step = 0; step < TILE_K / 16; step += 2) {
      unsigned a[2][4];
      load_matrices(a[0], w + place(warp * 16 + (lane & 15), step * 2 + (lane >> 4)));
      load_matrices(a[1], w + place(warp * 16 + (lane & 15), step * 2 + 2 + (lane >> 4)));
      if (ROWS == 8) {
        unsigned b[4];
        load_matrices(b, x + place(lane & 7, step * 2 + (lane >> 3)));
        multiply_add(sums[0], a[0], b[0], b[1]);
        multiply_add(sums[0], a[1], b[2], b[3]);
      } else {
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
          for (int pair = 0; pair < ROWS / 16; pair++) {
            unsigned b[4];
            int row = pair * 16 + (lane & 7) + ((lane >> 4) << 3), piece = (step + half) * 2 + ((lane >> 3) & 1);
            load_matrices(b, x + place(row, piece));
            multiply_add(sums[2 * pair], a[half], b[0], b[1]);
            multiply_add(sums[2 * pair + 1], a[half], b[2], b[3]);
          }
      }
    }
  }

  // Bias, activation and store of a whole sum.
  GPU_DEV void store_outputs(const Unit& at) {
    const ProductPart& p = part(args.concatenated ? 0 : at.part);
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
    for (int i = 0; i < ROWS / 8; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        int n = at.output + warp * 16 + (lane >> 2) + (j >> 1) * 8, r = i * 8 + (lane & 3) * 2 + (j & 1);
        if (n >= p.outputs || r >= rows) continue;
        float y = sums[i][j] + (p.bias ? p.bias[n] : 0.0f);
        long long to = (long long)(row0 + r) * p.y_stride + n;
        if (p.store == STORE_F32) {
          ((float*)p.y)[to] = y;
        } else {
          ((bf16*)p.y)[to] = to_bf16(p.store == STORE_GELU_BF16 ? gelu(y) : y);
        }
      }
  }

  // A tile that several blocks share: slot 0 of a block is the tile that it found begun, slot 1 the one that it began.
  GPU_DEV float4* partial(int block, int slot) const {
    return (float4*)args.partials + ((long long)((blockIdx.y * gridDim.x + block) * 2 + slot) * (ROWS / 8)) * PRODUCT_THREADS;
  }

  // Leaves this block's part of a tile; true in the block that came last, with the whole sum.
  GPU_DEV bool share(int tile, bool found_begun, unsigned* came) {
    float4* mine = partial(blockIdx.x, found_begun ? 0 : 1);
#pragma unroll
    for (int i = 0; i < ROWS / 8; i++)
      mine[i * PRODUCT_THREADS + threadIdx.x] = make_float4(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
    int first = block_of(tile * chunks), last = block_of((tile + 1) * chunks - 1);
    unsigned* ticket = args.tickets + blockIdx.y * tiles + tile;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) *came = atomicAdd(ticket, 1u);
    __syncthreads();
    if (*came != (unsigned)(last - first)) return false;
    __threadfence();
    if (threadIdx.x == 0) *ticket = 0;
    clear();
    for (int block = first; block <= last; block++) {
      const float4* theirs = partial(block, block == first ? 1 : 0);
#pragma unroll
      for (int i = 0; i < ROWS / 8; i++) {
        float4 v = load_shared_data(theirs + i * PRODUCT_THREADS + threadIdx.x);
        sums[i][0] += v.x, sums[i][1] += v.y, sums[i][2] += v.z, sums[i][3] += v.w;
      }
    }
    return true;
  }

  GPU_DEV void clear() {
#pragma unroll
    for (int i = 0; i < ROWS / 8; i++) sums[i][0] = sums[i][1] = sums[i][2] = sums[i][3] = 0.0f;
  }

  // Until at most `stages - 2` groups are under way.
  GPU_DEV void wait() const {
    switch (args.stages) {
      case 2: copy_async_wait<0>(); break;
      case 3: copy_async_wait<1>(); break;
      case 4: copy_async_wait<2>(); break;
      case 5: copy_async_wait<3>(); break;
      default: copy_async_wait<4>(); break;
    }
  }

  GPU_DEV void prepare_normalizers() {
    for (int r = threadIdx.x >> 5; r < ROWS; r += PRODUCT_THREADS / 32) {
      float2 by = make_float2(0.0f, 0.0f);
      if (r < rows) {
        int source = args.gather ? args.gather[row0 + r] : row0 + r;
        by = normalizer(args.moments + (long long)source * args.moment_stride, args.part[0].inputs, args.eps);
      }
      if ((threadIdx.x & 31) == 0) normalizers[r] = by;
    }
    __syncthreads();
  }

  GPU_DEV void run(unsigned* came) {
    int begin = first_unit(blockIdx.x), end = first_unit(blockIdx.x + 1), stages = args.stages;
    if (rows <= 0 || begin == end) return;
    // The loads are `stages - 1` units ahead, the fetches two.
    int tile = begin / chunks, chunk = begin % chunks;
    int load_tile = tile, load_chunk = chunk, load_stage = 0, loaded = begin;
    auto load_next = [&]() {
      if (loaded < end) load(locate(load_tile, load_chunk), load_stage);
      copy_async_commit();
      loaded++;
      if (++load_stage == stages) load_stage = 0;
      if (++load_chunk == chunks) load_chunk = 0, load_tile++;
    };
    for (int i = 0; i < stages - 1; i++) load_next();
    int fetch_tile = tile, fetch_chunk = chunk, fetched = begin;
    auto fetch_next = [&]() {
      if (fetched < end) fetch(locate(fetch_tile, fetch_chunk));
      fetched++;
      if (++fetch_chunk == chunks) fetch_chunk = 0, fetch_tile++;
    };
    if (NORM) {
      fetch_next();
      prepare_normalizers();
      store_inputs(0);
      fetch_next();
    }
    clear();
    int stage = 0;
    for (int unit = begin; unit < end; unit++) {
      wait();
      __syncthreads();
      int next_stage = stage + 1 == stages ? 0 : stage + 1;
      if (NORM && unit + 1 < end) {
        store_inputs(next_stage);
        fetch_next();
      }
      load_next();
      multiply(stage);
      stage = next_stage;
      bool tile_ends = chunk == chunks - 1;
      if (tile_ends || unit + 1 == end) {
        int tile_begin = tile * chunks;
        bool whole = begin <= tile_begin && tile_ends;
        if (whole || share(tile, begin > tile_begin, came)) store_outputs(locate(tile, chunk));
        clear();
      }
      if (++chunk == chunks) chunk = 0, tile++;
    }
  }
};

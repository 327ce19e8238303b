// Launch ④ of a layer: x += Σ partial over the ranks of a node, and the moments of the new x, which the next layer's norms
// need. The ranks read each other's partial sums over NVLink (peer access); x and its moments stay on each rank.
//
//   all_reduce_one_shot  each rank reads all partial sums: one wait. For few rows.
//   all_reduce_two_shot  each rank adds up its share of the columns, in place in its own partial, and all read the shares:
//                        two waits, 2/n of the traffic. For many rows (from about 256 KB of partial sums on 8 ranks).
//   add_residual         x += partial, of one rank alone or after another library's all-reduce.
//
// All add in rank order, so every rank has the same bits, and the three agree.
//
// A warp has 128 columns of a row (a part, as moments.h calls it) and gives their moments. How ranks wait for each other is
// in peers.h: block b only for the blocks b of the others, which have the same items.
//
// Partial sums must alternate between two buffers from one launch to the next: a rank that has come to launch i + 1 has
// done all its reads of launch i, so buffer i may be written again when launch i + 1 is over, and not before. In a step the
// embedding has a buffer of its own and layer l has buffer l % 2, which holds for any number of layers.
//
// Bytes that must move over NVLink, into each rank, of rows · columns · 4 bytes of partial sums: (n − 1) times in one shot,
// 2 · (n − 1) / n times in two. At 180B over 8 a row is 59.4 KB: 416 KB, 1.7 µs at 250 GB/s; waits are about 2 µs each.
//
// Grid: x = at most as many blocks as the ranks' flags are for (add_residual: as are wanted). Block: 4 to 16 warps; more where
// rows are many, as it takes so many loads at a time to keep memory or links busy. No dynamic shared memory.
#include "moments.h"
#include "peers.h"

struct AllReduceArgs {            // 176 bytes
  float* partials[RANKS_MAX];     // Of each rank, [rows][columns]
  Peers peers;
  float* x;                       // [rows][columns]
  float2* moments;                // [rows][moment_stride]
  const unsigned* rows;           // Rows in use.
  int columns;                    // Multiple of 4.
  int moment_stride;
  int accumulate;                 // 1: x += Σ; 0: x = Σ (the embedding)
  int reserved;                   // 0
};
static_assert(sizeof(AllReduceArgs) == 176, "layout");

// Each warp takes one item, and then every so many.
GPU_DEV int first_item() { return blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5); }
GPU_DEV int warps() { return gridDim.x * (blockDim.x >> 5); }

struct Part {
  int row, index, columns;   // `columns` of the part: 128 but for a row's last
  long long at;              // This lane's element.
  bool here;                 // Whether this lane has columns.
};

GPU_DEV Part part_of(const AllReduceArgs& args, int item) {
  int parts = (args.columns + MOMENT_COLUMNS - 1) / MOMENT_COLUMNS, lane = threadIdx.x & 31;
  int row = item / parts, index = item % parts, column = index * MOMENT_COLUMNS + lane * 4;
  return Part{row, index, min(MOMENT_COLUMNS, args.columns - index * MOMENT_COLUMNS),
              (long long)row * args.columns + column, column < args.columns};
}

GPU_DEV int item_count(const AllReduceArgs& args) {
  return (int)*args.rows * ((args.columns + MOMENT_COLUMNS - 1) / MOMENT_COLUMNS);
}

GPU_DEV float4 add(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

// The sum over the ranks, in their order.
GPU_DEV float4 sum_ranks(const AllReduceArgs& args, const Part& part) {
  float4 v[RANKS_MAX];
#pragma unroll
  for (int rank = 0; rank < RANKS_MAX; rank++)
    if (rank < args.peers.ranks) v[rank] = load_shared_data((const float4*)(args.partials[rank] + part.at));
  float4 sum = v[0];
#pragma unroll
  for (int rank = 1; rank < RANKS_MAX; rank++)
    if (rank < args.peers.ranks) sum = add(sum, v[rank]);
  return sum;
}

// Adds `sum` to x and gives the moments; the whole warp calls.
GPU_DEV void finish(const AllReduceArgs& args, const Part& part, float4 sum) {
  float4 x = sum;
  if (part.here) {
    float4* to = (float4*)(args.x + part.at);
    if (args.accumulate) x = add(*to, sum);
    *to = x;
  }
  float2 moments = moments_of(x, part.here, part.columns);
  if ((threadIdx.x & 31) == 0) args.moments[(long long)part.row * args.moment_stride + part.index] = moments;
}

extern "C" __global__ void __launch_bounds__(512) all_reduce_one_shot(GPU_CONST AllReduceArgs args) {
  unsigned epoch = *epoch_of(args.peers) + 1;
  meet(args.peers, 0, epoch);
  int items = item_count(args);
  for (int item = first_item(); item < items; item += warps()) {
    Part part = part_of(args, item);
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (part.here) sum = sum_ranks(args, part);
    finish(args, part, sum);
  }
  if (threadIdx.x == 0) *epoch_of(args.peers) = epoch;
}

extern "C" __global__ void __launch_bounds__(512) all_reduce_two_shot(GPU_CONST AllReduceArgs args) {
  unsigned epoch = *epoch_of(args.peers) + 1;
  int items = item_count(args), first = first_item();
  meet(args.peers, 0, epoch);
  // The owner of a warp's items goes round the ranks, beginning at another one in each warp.
  int owner = first % args.peers.ranks;
  for (int item = first; item < items; item += warps()) {
    Part part = part_of(args, item);
    if (owner == args.peers.rank && part.here) *(float4*)(entry(args.partials, args.peers.rank) + part.at) = sum_ranks(args, part);
    owner = owner + 1 == args.peers.ranks ? 0 : owner + 1;
  }
  meet(args.peers, 1, epoch);
  owner = first % args.peers.ranks;
  for (int item = first; item < items; item += warps()) {
    Part part = part_of(args, item);
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (part.here) sum = load_shared_data((const float4*)(entry(args.partials, owner) + part.at));
    finish(args, part, sum);
    owner = owner + 1 == args.peers.ranks ? 0 : owner + 1;
  }
  if (threadIdx.x == 0) *epoch_of(args.peers) = epoch;
}

extern "C" __global__ void __launch_bounds__(512) add_residual(GPU_CONST AllReduceArgs args) {
  int items = item_count(args);
  for (int item = first_item(); item < items; item += warps()) {
    Part part = part_of(args, item);
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (part.here) sum = *(const float4*)(args.partials[0] + part.at);
    finish(args, part, sum);
  }
}

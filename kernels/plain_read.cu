// Reads memory and does nothing else: what other kernels' rates are measured against, on the same GPU and in the same run.
// No part of a model.
//
// Every thread takes words of 16 bytes, four at a time so that enough loads are under way, as far apart as the grid is wide.
// What it read it folds together by exclusive or and stores, so that no load can be left out, and so that the fold of all
// sums is the fold of the memory.
//
// Bytes that must move: count · 16 read, 4 written by each thread. Floor at 2,039 GB/s (A100-80GB): 0.53 ms a GiB.
//
// Grid: x = 8 · multiprocessors. Block: 256 threads. No shared memory.
#include "gpu.h"

struct PlainReadArgs {   // 24 bytes
  const uint4* from;     // [count]
  unsigned* sums;        // [grid.x · 256]
  long long count;
};
static_assert(sizeof(PlainReadArgs) == 24, "layout");

GPU_DEV unsigned fold(uint4 x) { return x.x ^ x.y ^ x.z ^ x.w; }

extern "C" __global__ void __launch_bounds__(256) plain_read(GPU_CONST PlainReadArgs args) {
  constexpr int AHEAD = 4;
  long long threads = (long long)gridDim.x * 256, thread = (long long)blockIdx.x * 256 + threadIdx.x, i = thread;
  unsigned sum = 0;
  for (; i + (AHEAD - 1) * threads < args.count; i += AHEAD * threads) {
    uint4 words[AHEAD];
#pragma unroll
    for (int ahead = 0; ahead < AHEAD; ahead++) words[ahead] = args.from[i + ahead * threads];
#pragma unroll
    for (int ahead = 0; ahead < AHEAD; ahead++) sum ^= fold(words[ahead]);
  }
  for (; i < args.count; i += threads) sum ^= fold(args.from[i]);
  args.sums[thread] = sum;
}

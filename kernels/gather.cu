// Whole rows of logits on every rank: the vocabulary-parallel parts, one behind the other, read from the peers over NVLink.
// Every rank then samples the same rows (sample.cu).
//
// The ranks meet before, since the parts are the kernel before's, and after, since the next product may overwrite them.
//
// Bytes that must move over NVLink, into each rank: (n − 1) / n · samples · vocab · 4. At 8 ranks and Falcon's vocabulary
// 228 KB a row: 0.9 µs at 250 GB/s; waits are about 2 µs each.
//
// Grid: x = multiprocessors at most, the same on every rank. Block: 256 threads. No dynamic shared memory.
#include "peers.h"

struct GatherArgs {                   // 192 bytes
  const float* parts[RANKS_MAX];      // Of each rank, [samples][widths[rank]]
  Peers peers;
  int widths[RANKS_MAX];
  float* logits;                      // [samples][vocab]
  const unsigned* samples;            // Rows in use.
  int vocab;                          // Sum of the widths.
  int reserved;                       // 0
};
static_assert(sizeof(GatherArgs) == 192, "layout");

extern "C" __global__ void __launch_bounds__(256) gather_logits(GPU_CONST GatherArgs args) {
  unsigned epoch = *epoch_of(args.peers) + 1;
  meet(args.peers, 0, epoch);
  int samples = (int)*args.samples, first = 0;
#pragma unroll
  for (int rank = 0; rank < RANKS_MAX; rank++) {
    if (rank >= args.peers.ranks) break;
    int width = args.widths[rank];
    for (int i = blockIdx.x * 256 + threadIdx.x; i < samples * width; i += gridDim.x * 256) {
      int row = i / width, column = i % width;
      args.logits[(long long)row * args.vocab + first + column] = load_shared_data(args.parts[rank] + i);
    }
    first += width;
  }
  meet(args.peers, 1, epoch);
  if (threadIdx.x == 0) *epoch_of(args.peers) = epoch;
}

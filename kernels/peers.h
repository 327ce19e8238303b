// How kernels of different ranks meet: flags in memory that the ranks of a node may write to each other.
//
// Each rank has a line of 128 bytes for each block of its largest grid, zero at first: word 0 is the line's epoch, words
// 1 + 8 · wait + r are where rank r says that it has come to this wait. A flag holds the epoch and is never reset; a peer may be
// one ahead, so waits are for "at least". An epoch counts launches, in device memory, so that a captured graph can be
// replayed. A launch has the same grid on every rank, and block b of a rank waits only for the blocks b of the others. Blocks do
// not wait for a place on a multiprocessor either: the host asserts that a grid has at most one for each multiprocessor of
// the smallest device, so all are resident once the kernels before have ended. (A larger grid would hang where devices
// dispatched its blocks in different orders, of which CUDA promises none.) Who waits for a rank that is gone waits until the host raises the flags (peers.rs), or ends the process.
#pragma once
#include "gpu.h"

constexpr int RANKS_MAX = 8, FLAG_LINE = 32;

struct Peers {                  // 72 bytes
  unsigned* flags[RANKS_MAX];   // Of each rank, [blocks][FLAG_LINE]
  int rank;
  int ranks;
};

// Entry `rank` of a table of arguments, where threads differ in it: without a copy of the table to local memory.
template <class T> GPU_DEV T entry(T const (&table)[RANKS_MAX], int rank) {
  T found = table[0];
#pragma unroll
  for (int i = 1; i < RANKS_MAX; i++)
    if (i == rank) found = table[i];
  return found;
}

GPU_DEV unsigned* epoch_of(const Peers& peers) { return entry(peers.flags, peers.rank) + blockIdx.x * FLAG_LINE; }

// All threads call. What block b of any rank wrote before is visible to block b of every rank behind, and so is what the
// kernels before it wrote.
GPU_DEV void meet(const Peers& peers, int wait, unsigned epoch) {
  __syncthreads();
  int peer = threadIdx.x, word = blockIdx.x * FLAG_LINE + 1 + RANKS_MAX * wait;
  if (peer < peers.ranks) {
    release_system(entry(peers.flags, peer) + word + peers.rank, epoch);
    const unsigned* mine = entry(peers.flags, peers.rank) + word + peer;
    while ((int)(acquire_system(mine) - epoch) < 0) {
    }
  }
  __syncthreads();
}

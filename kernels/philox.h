// The random numbers of the sampling crate: Philox4x32-10 keyed by the sequence's seed, one number for each token, and
// the Gumbel number made of it.
#pragma once
#include "gpu.h"

// Word 0 of the four that belong to the counter [position, id, purpose, 0].
GPU_DEV unsigned philox(unsigned position, unsigned id, unsigned purpose, unsigned key0, unsigned key1) {
  unsigned c0 = position, c1 = id, c2 = purpose, c3 = 0;
#pragma unroll
  for (int round = 0; round < 10; round++) {
    unsigned long long a = 0xD2511F53ull * c0, b = 0xCD9E8D57ull * c2;
    c0 = (unsigned)(b >> 32) ^ c1 ^ key0, c1 = (unsigned)b;
    c2 = (unsigned)(a >> 32) ^ c3 ^ key1, c3 = (unsigned)a;
    key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
  }
  return c0;
}

// -ln(-ln(u)) with u = (bits + 0.5) / 2^32, which is exact in f64.
GPU_DEV double gumbel(unsigned bits) { return -log(-log(((double)bits + 0.5) / 4294967296.0)); }

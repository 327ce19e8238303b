// The half of the vocabulary that the watermark favours after a token: the permutation of the sampling crate.
#pragma once
#include "gpu.h"

constexpr float WATERMARK_DELTA = 2.0f;  // What a favoured token's logit gains.

struct GreenList {
  unsigned keys[4], half_bits, vocab;

  GPU_DEV GreenList(unsigned previous, unsigned vocab) : vocab(vocab) {
    unsigned long long key = 15485863ull * previous;
#pragma unroll
    for (unsigned round = 0; round < 4; round++)
      keys[round] = (unsigned)(round % 2 ? key >> 32 : key) + (round + 1) * 0x9E3779B9u;
    unsigned bits = 32 - __clz(vocab - 1);
    half_bits = (bits + 1) / 2;
  }

  GPU_DEV unsigned permute(unsigned place) const {
    unsigned mask = (1u << half_bits) - 1, left = place >> half_bits, right = place & mask;
#pragma unroll
    for (int round = 0; round < 4; round++) {
      unsigned x = right ^ keys[round];
      x = (x ^ (x >> 16)) * 0x85EBCA6Bu;
      x = (x ^ (x >> 13)) * 0xC2B2AE35u;
      x ^= x >> 16;
      unsigned mixed = left ^ (x & mask);
      left = right, right = mixed;
    }
    return left << half_bits | right;
  }

  GPU_DEV bool contains(unsigned id) const {
    unsigned place = permute(id);
    while (place >= vocab) place = permute(place);
    return place < vocab / 2;
  }
};

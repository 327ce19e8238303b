// The moments of a row, in parts: each MOMENT_COLUMNS columns have a mean and an M2 (the sum of squared distances to that
// mean), computed by who last changed the row, and combined by who normalizes it. The order of both is fixed, and so is which multiplications are fused into additions:
// norm.cu and norm_product.cu give the same bits.
#pragma once
#include "gpu.h"

constexpr int MOMENT_COLUMNS = 128;  // One warp's 32 x float4.

struct Moments {
  float count, mean, m2;
};

// Of both parts together (Chan, Golub, LeVeque 1979).
GPU_DEV Moments combine(Moments a, Moments b) {
  float count = a.count + b.count;
  if (count == 0.0f) return a;
  float delta = b.mean - a.mean, share = b.count / count;
  return Moments{count, fmaf(delta, share, a.mean), fmaf(delta * delta, a.count * share, a.m2 + b.m2)};
}

GPU_DEV float warp_sum(float v) {
#pragma unroll
  for (int mask = 16; mask; mask >>= 1) v += __shfl_xor_sync(FULL_WARP, v, mask);
  return v;
}

// Mean and M2 of up to MOMENT_COLUMNS columns, of which this lane has `here` (0 or 4); all lanes receive them.
GPU_DEV float2 moments_of(float4 v, int here, int count) {
  float sum = here ? (v.x + v.y) + (v.z + v.w) : 0.0f;
  float mean = warp_sum(sum) / (float)count;
  float a = v.x - mean, b = v.y - mean, c = v.z - mean, d = v.w - mean;
  float m2 = warp_sum(here ? (a * a + b * b) + (c * c + d * d) : 0.0f);
  return make_float2(mean, m2);
}

// Mean and 1 / sqrt(variance + eps) of a row of `columns` columns; the whole warp calls, all lanes receive them.
GPU_DEV float2 normalizer(const float2* parts, int columns, float eps) {
  int lane = threadIdx.x & 31, count = (columns + MOMENT_COLUMNS - 1) / MOMENT_COLUMNS;
  Moments sum{0.0f, 0.0f, 0.0f};
  for (int part = lane; part < count; part += 32) {
    float2 moments = parts[part];
    int here = min(MOMENT_COLUMNS, columns - part * MOMENT_COLUMNS);
    sum = combine(sum, Moments{(float)here, moments.x, moments.y});
  }
#pragma unroll
  for (int mask = 1; mask < 32; mask <<= 1) {
    Moments other{__shfl_xor_sync(FULL_WARP, sum.count, mask), __shfl_xor_sync(FULL_WARP, sum.mean, mask),
                  __shfl_xor_sync(FULL_WARP, sum.m2, mask)};
    sum = lane & mask ? combine(other, sum) : combine(sum, other);
  }
  return make_float2(sum.mean, 1.0f / sqrtf(sum.m2 / (float)columns + eps));
}

// One normalized value, before it is rounded to bf16 for a product.
GPU_DEV float normalize(float x, float2 by, float scale, float shift) {
  return fmaf((x - by.x) * by.y, scale, shift);
}

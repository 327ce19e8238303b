// y = x / 2 · (1 + erf(x / √2)) from f32 to bf16, where the product before was cuBLASLt's (prefill): its own epilogue is
// the tanh form, which is another function.
//
// Bytes that must move: rows · columns · 6. For 2,048 rows at 180B over 8 (7,424 columns): 91 MB, 45 µs a layer at
// 2,039 GB/s.
//
// Grid: x = ceil(columns / 1,024), y = rows of the bucket. Block: 256 threads. No shared memory.
#include "gelu.h"

struct GeluArgs {           // 40 bytes
  const float* x;           // [rows][x_stride]
  bf16* y;                  // [rows][y_stride]
  const unsigned* rows;     // Rows in use.
  int columns;              // Multiple of 4.
  int x_stride;             // Multiple of 4.
  int y_stride;             // Multiple of 4.
  int reserved;             // 0
};
static_assert(sizeof(GeluArgs) == 40, "layout");

extern "C" __global__ void __launch_bounds__(256) gelu_bf16(GPU_CONST GeluArgs args) {
  int row = blockIdx.y, column = (blockIdx.x * 256 + threadIdx.x) * 4;
  if (row >= (int)*args.rows || column >= args.columns) return;
  float4 x = *(const float4*)(args.x + (long long)row * args.x_stride + column);
  uint2 packed;
  packed.x = pack_bf16(gelu(x.x), gelu(x.y));
  packed.y = pack_bf16(gelu(x.z), gelu(x.w));
  *(uint2*)(args.y + (long long)row * args.y_stride + column) = packed;
}

// yᵢ = normᵢ(x) as bf16, for one norm or two of the same rows: what product.cu and cuBLASLt read where norm_product.cu does
// not serve (more than 16 rows), and the final norm of the rows whose logits are wanted.
//
// The moments are there already (moments.h), so x is read once. The bits are those of norm_product.cu's prologue.
//
// Bytes that must move: rows · columns · (4 read + 2 written for each norm). For 64 rows at 180B with two norms: 7.6 MB, all
// in the L2 cache as a rule; 2,048 rows: 243 MB, 119 µs a layer at 2,039 GB/s.
//
// Grid: x = rows of the bucket, y = ceil(columns / 1,024). Block: 256 threads. No dynamic shared memory.
#include "moments.h"

struct NormPart {        // 24 bytes
  const float* scale;    // [columns]
  const float* shift;    // [columns]
  bf16* y;               // [rows][y_stride]; null: no second norm
};

struct NormArgs {            // 104 bytes
  NormPart part[2];
  const float* x;            // [rows][x_stride]
  const unsigned* rows;      // Rows in use.
  const unsigned* gather;    // Row r of x is gather[r]; null: r.
  const float2* moments;     // [rows of x][moment_stride]
  float eps;
  int columns;               // Multiple of 4.
  int x_stride;              // Multiple of 4.
  int y_stride;              // Multiple of 4.
  int moment_stride;
  int reserved;              // 0
};
static_assert(sizeof(NormArgs) == 104, "layout");

GPU_DEV void store_normed(const NormPart& part, long long to, int column, float4 x, float2 by) {
  float4 scale = *(const float4*)(part.scale + column), shift = *(const float4*)(part.shift + column);
  uint2 packed;
  packed.x = pack_bf16(normalize(x.x, by, scale.x, shift.x), normalize(x.y, by, scale.y, shift.y));
  packed.y = pack_bf16(normalize(x.z, by, scale.z, shift.z), normalize(x.w, by, scale.w, shift.w));
  *(uint2*)(part.y + to) = packed;
}

extern "C" __global__ void __launch_bounds__(256) norm(GPU_CONST NormArgs args) {
  __shared__ float2 shared_by;
  int row = blockIdx.x;
  if (row >= (int)*args.rows) return;
  int source = args.gather ? args.gather[row] : row;
  if (threadIdx.x < 32) {
    float2 by = normalizer(args.moments + (long long)source * args.moment_stride, args.columns, args.eps);
    if (threadIdx.x == 0) shared_by = by;
  }
  __syncthreads();
  float2 by = shared_by;
  int column = (blockIdx.y * 256 + threadIdx.x) * 4;
  if (column >= args.columns) return;
  float4 x = *(const float4*)(args.x + (long long)source * args.x_stride + column);
  long long to = (long long)row * args.y_stride + column;
  store_normed(args.part[0], to, column, x, by);
  if (args.part[1].y) store_normed(args.part[1], to, column, x, by);
}

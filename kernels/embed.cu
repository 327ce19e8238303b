// A rank's part of the vocabulary-parallel embedding: y = table[token − first] where the rank has that row, else 0. The
// sum over the ranks, and the moments of x, are launch ④'s (all_reduce.cu, with accumulate = 0).
//
// Tokens come from the history on the device, where the sampler put them: the host need not have seen them.
//
// Bytes that must move: rows · columns · 4 written, and on one rank rows · columns · 2 read. Microseconds at most.
//
// Grid: x = rows of the bucket, y = ceil(columns / 1,024). Block: 128 threads. No shared memory.
#include "gpu.h"
#include "step_inputs.h"

struct EmbedArgs {            // 64 bytes
  const StepInputs* step;
  const StepRow* rows;
  const unsigned* history;    // [slots][history_stride]: token ids
  const bf16* table;          // [entries][table_stride]
  float* y;                   // [rows][columns]: the rank's partial sum
  int history_stride;
  int first;                  // The token of the table's first row.
  int entries;                // May be 0.
  int columns;                // Multiple of 8.
  int table_stride;           // Multiple of 8.
  int reserved;               // 0
};
static_assert(sizeof(EmbedArgs) == 64, "layout");

extern "C" __global__ void __launch_bounds__(128) embed(GPU_CONST EmbedArgs args) {
  int row = blockIdx.x, column = (blockIdx.y * 128 + threadIdx.x) * 8;
  if (row >= (int)args.step->rows || column >= args.columns) return;
  StepRow at = args.rows[row];
  int entry = (int)args.history[(long long)at.slot * args.history_stride + at.position] - args.first;
  uint4 v = make_uint4(0, 0, 0, 0);
  if (entry >= 0 && entry < args.entries) v = *(const uint4*)(args.table + (long long)entry * args.table_stride + column);
  float4* to = (float4*)(args.y + (long long)row * args.columns + column);
  to[0] = make_float4(low_bf16(v.x), high_bf16(v.x), low_bf16(v.y), high_bf16(v.y));
  to[1] = make_float4(low_bf16(v.z), high_bf16(v.z), low_bf16(v.w), high_bf16(v.w));
}

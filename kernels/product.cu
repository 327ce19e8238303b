// y = x·Wᵀ + b over bf16 inputs: launch ③ of a layer ([dense | 4h_to_h], one sum over the concatenated inputs), launch ①
// and the logits where norm.cu has normalized the inputs (more than 16 rows), and every product of --deterministic.
//
// The idea is in product.h. The activation is applied by the producer: launch ① stores gelu(up) as bf16. As the prologue
// of ③ it would be evaluated by each of the hidden / 64 tiles again (232 times at 180B), which at 64 rows takes about as
// long as the weights do.
//
// Bytes that must move: outputs · inputs · 2 of weights, once. The inputs, rows · inputs · 2, are read by every tile, from
// the L2 cache. Floors at 2,039 GB/s (A100-80GB) and, in brackets, 600 GB/s (A10G):
//
//   ③ 180B over 8: 14,848 x (1,856 + 7,424)  275.6 MB  135 µs
//   ③ 40B over 4:   8,192 x (2,048 + 8,192)  167.8 MB   82 µs (280 µs)
//   ③ 7B over 1:    4,544 x (4,544 + 18,176) 206.5 MB  101 µs (344 µs)
//
// Grid: x as many blocks as multiprocessors, at most tiles · chunks; y = ceil(rows / ROWS), 1 at decode. Block: 128 threads.
// Shared memory: stages · (16,384 + ROWS · 256) bytes.
#include "product.h"

template <int ROWS> GPU_DEV void run_product(const ProductArgs& args, unsigned char* shared) {
  __shared__ unsigned came;
  Product<ROWS, false>(args, shared).run(&came);
}

extern "C" __global__ void __launch_bounds__(PRODUCT_THREADS, 2) product_8(GPU_CONST ProductArgs args) {
  GPU_SHARED(shared);
  run_product<8>(args, shared);
}
extern "C" __global__ void __launch_bounds__(PRODUCT_THREADS, 2) product_16(GPU_CONST ProductArgs args) {
  GPU_SHARED(shared);
  run_product<16>(args, shared);
}
extern "C" __global__ void __launch_bounds__(PRODUCT_THREADS, 2) product_32(GPU_CONST ProductArgs args) {
  GPU_SHARED(shared);
  run_product<32>(args, shared);
}
extern "C" __global__ void __launch_bounds__(PRODUCT_THREADS, 2) product_64(GPU_CONST ProductArgs args) {
  GPU_SHARED(shared);
  run_product<64>(args, shared);
}

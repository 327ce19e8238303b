// yᵢ = normᵢ(x)·Wᵢᵀ + bᵢ for up to two products over the same f32 rows: launch ① of a layer, [QKV; h_to_4h], and the logits
// behind the final norm.
//
// The idea is in product.h; here the inputs are normalized on their way into shared memory. Means and variances come with
// x as moments (moments.h), so no pass over x precedes the product: x is fetched into registers two chunks ahead of the
// tensor cores and stored as bf16 one chunk ahead. Every block normalizes what its own tiles need. That is for up to 16
// rows; with more, f32 inputs would take as much of the L2 cache's bandwidth as the weights do, and norm.cu followed by
// product.cu, which give the same bits, are faster.
//
// Bytes that must move: outputs · inputs · 2 of weights, once. Floors at 2,039 GB/s and (600 GB/s, A10G):
//
//   ① 180B over 8: (1,984 + 7,424) x 14,848  279.4 MB  137 µs
//   ① 40B over 4:  (2,304 + 8,192) x 8,192   172.0 MB   84 µs (287 µs)
//   ① 7B over 1:   (4,672 + 18,176) x 4,544  207.6 MB  102 µs (346 µs)
//   logits 180B over 8: 8,128 x 14,848       241.4 MB  118 µs
//
// Grid and block as in product.cu. Shared memory: stages · (16,384 + ROWS · 256) + ROWS · 8 bytes.
#include "product.h"

template <int ROWS> GPU_DEV void run_norm_product(const ProductArgs& args, unsigned char* shared) {
  __shared__ unsigned came;
  Product<ROWS, true>(args, shared).run(&came);
}

extern "C" __global__ void __launch_bounds__(PRODUCT_THREADS, 2) norm_product_8(GPU_CONST ProductArgs args) {
  GPU_SHARED(shared);
  run_norm_product<8>(args, shared);
}
extern "C" __global__ void __launch_bounds__(PRODUCT_THREADS, 2) norm_product_16(GPU_CONST ProductArgs args) {
  GPU_SHARED(shared);
  run_norm_product<16>(args, shared);
}

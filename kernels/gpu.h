// The instructions that CUDA C++ has no name for. Inline PTX stands here and nowhere else.
//
// Kernels include this file and no header of the toolkit, so that NVRTC alone compiles them.
#pragma once

#define GPU_DEV __device__ __forceinline__
// The block's dynamic shared memory, as bytes aligned for any load.
#define GPU_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
// A structure passed by value and read where it lies.
#define GPU_CONST __grid_constant__ const

constexpr unsigned FULL_WARP = 0xffffffffu;

// A bfloat16 in memory. Arithmetic is in f32.
struct bf16 {
  unsigned short bits;
};

// Two bf16 in one register: `low` at the lower address. Rounded to nearest even.
GPU_DEV unsigned pack_bf16(float low, float high) {
  unsigned packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
GPU_DEV bf16 to_bf16(float x) { return bf16{(unsigned short)pack_bf16(x, 0.0f)}; }
GPU_DEV float low_bf16(unsigned packed) { return __uint_as_float(packed << 16); }
GPU_DEV float high_bf16(unsigned packed) { return __uint_as_float(packed & 0xffff0000u); }
GPU_DEV float from_bf16(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }

GPU_DEV float minus_infinity() { return __uint_as_float(0xff800000u); }

// 2^x within 2 units in the last place; results below the normal numbers are 0.
GPU_DEV float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

GPU_DEV unsigned shared_address(const void* shared) { return (unsigned)__cvta_generic_to_shared(shared); }

// Asynchronous copies of 16 bytes into shared memory. Where !ok nothing is read and zeros are written.
// Both addresses are multiples of 16.
GPU_DEV void copy_async(void* shared, const void* global, bool ok) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(ok ? 16 : 0)
               : "memory");
}

// What is read once and not again should leave the L2 cache first.
GPU_DEV unsigned long long evict_first() {
  unsigned long long policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
GPU_DEV void copy_async(void* shared, const void* global, bool ok, unsigned long long policy) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(shared_address(shared)),
               "l"(global), "r"(ok ? 16 : 0), "l"(policy)
               : "memory");
}

// Closes a group of this thread's copies.
GPU_DEV void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for this thread's copies but those of its newest N groups.
template <int N> GPU_DEV void copy_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// Four 8x8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8 and receives elements
// (l / 4, l % 4 * 2) and the one behind it of each.
GPU_DEV void load_matrices(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
// The same, each matrix transposed.
GPU_DEV void load_matrices_transposed(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// d += a * b on the tensor cores: a is 16x16 (row-major fragments), b is 16x8 (column-major), d is 16x8 in f32. With
// g = lane / 4 and t = lane % 4: a[0..3] are (g, 2t) (g+8, 2t) (g, 2t+8) (g+8, 2t+8), b0 and b1 are (2t, g) (2t+8, g),
// d[0..3] are (g, 2t) (g, 2t+1) (g+8, 2t) (g+8, 2t+1).
GPU_DEV void multiply_add(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Flags that ranks on other devices of the node read. A release makes all that this thread has seen or written visible
// to who acquires the flag.
GPU_DEV void release_system(unsigned* flag, unsigned value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
GPU_DEV unsigned acquire_system(const unsigned* flag) {
  unsigned value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}

// Loads that pass by the L1 cache: for what other blocks or devices have written while this kernel runs.
GPU_DEV float4 load_shared_data(const float4* p) { return __ldcg(p); }
GPU_DEV float2 load_shared_data(const float2* p) { return __ldcg(p); }
GPU_DEV float load_shared_data(const float* p) { return __ldcg(p); }
GPU_DEV unsigned load_shared_data(const unsigned* p) { return __ldcg(p); }

// Hopper building blocks shared by the *_sm90.cu kernels: mbarriers, bulk tensor copies (TMA), warpgroup MMA, and
// programmatic dependent launch. PTX only; no library headers. Every wrapper names the instruction it stands for.
#pragma once
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cstdint>

namespace octet::cuda::sm90 {

__device__ __forceinline__ uint32_t smem_addr(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// mbarrier ------------------------------------------------------------------------------------------------------
__device__ __forceinline__ void mbar_init(uint64_t* bar, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_addr(bar)), "r"(arrivals));
}
// Makes initialised barriers visible to the copy engine.
__device__ __forceinline__ void mbar_fence_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void mbar_arrive(uint64_t* bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(smem_addr(bar)) : "memory");
}
__device__ __forceinline__ void mbar_expect_tx(uint64_t* bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_addr(bar)), "r"(bytes) : "memory");
}
__device__ __forceinline__ void mbar_wait(uint64_t* bar, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred p;\n"
      "WAIT_%=:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@p bra DONE_%=;\n"
      "bra WAIT_%=;\n"
      "DONE_%=:\n}" ::"r"(smem_addr(bar)), "r"(parity)
      : "memory");
}

// Bulk tensor copies -----------------------------------------------------------------------------------------------
enum class L2Hint : uint64_t { evict_first = 0x12F0000000000000ull, evict_normal = 0x1000000000000000ull, evict_last = 0x14F0000000000000ull };

__device__ __forceinline__ void tma_prefetch_desc(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
__device__ __forceinline__ void tma_load_2d(void* dst, const CUtensorMap* map, uint64_t* bar, int32_t c0, int32_t c1, L2Hint hint) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(
          smem_addr(dst)),
      "l"(map), "r"(smem_addr(bar)), "r"(c0), "r"(c1), "l"(static_cast<uint64_t>(hint))
      : "memory");
}

// 16 bytes from global to shared memory without passing through a register; copy_async_wait ends all of this thread's.
__device__ __forceinline__ void copy_async_16(void* dst, const void* src) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(smem_addr(dst)), "l"(src) : "memory");
}
__device__ __forceinline__ void copy_async_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Orders this thread's ordinary shared-memory accesses before later ones of the copy engine and the tensor cores.
__device__ __forceinline__ void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Warpgroup MMA ----------------------------------------------------------------------------------------------------
// Shared-memory matrix descriptor, K-major tile with the 128-byte swizzle: rows of 128 bytes, eight-row groups 1024
// bytes apart. The tile must start on a 1024-byte boundary; stepping K inside the 128 bytes adds to the start address.
__device__ __forceinline__ uint64_t wgmma_desc(const void* tile) {
  uint64_t d = (smem_addr(tile) & 0x3FFFF) >> 4;
  d |= static_cast<uint64_t>(1) << 16;          // leading byte offset: unused for swizzled K-major, 1 by convention
  d |= static_cast<uint64_t>(1024 >> 4) << 32;  // stride between eight-row groups
  d |= static_cast<uint64_t>(1) << 62;          // 128-byte swizzle
  return d;
}
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending> __device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Named barrier over `threads` threads of the block (ids 1…15; 0 is __syncthreads).
__device__ __forceinline__ void named_barrier(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

template <int kRegs> __device__ __forceinline__ void reg_alloc() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegs)); }
template <int kRegs> __device__ __forceinline__ void reg_dealloc() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegs)); }

// What a matrix product does with a finished sum: + bias[n] + residual[m,n], rounded once into bf16 or f32.
struct Epilogue {
  const void* bias;                  // [N] of f32 or bf16, or nullptr
  const __nv_bfloat16* residual;     // [M,N] at ldy, or nullptr; may be y itself
  void* y;
  int64_t ldy;
  bool bias_f32, y_f32;

  __device__ __forceinline__ float bias_at(int n) const {
    return bias_f32 ? static_cast<const float*>(bias)[n] : __bfloat162float(static_cast<const __nv_bfloat16*>(bias)[n]);
  }
  __device__ __forceinline__ float finish(float v, int64_t m, int n) const {
    if (bias) v += bias_at(n);
    if (residual) v += __bfloat162float(residual[m * ldy + n]);
    return v;
  }
  __device__ __forceinline__ void store(float v, int64_t m, int n) const {
    v = finish(v, m, n);
    if (y_f32) static_cast<float*>(y)[m * ldy + n] = v;
    else static_cast<__nv_bfloat16*>(y)[m * ldy + n] = __float2bfloat16(v);
  }
};

// Programmatic dependent launch: wait until the previous kernel's writes are visible; allow the next one to start.
// launch_dependents orders no memory: the dependent kernel must still execute grid_wait before reading our output.
__device__ __forceinline__ void grid_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ __forceinline__ void grid_launch_dependents() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

}  // namespace octet::cuda::sm90

// The contract between the CUDA runtime (streams, graphs, memory) and the op launchers.
//
// An op is a table of variants. The runtime walks it in order and launches the first whose architectures and predicate
// fit; `octet verify` forces each by name. A launcher validates nothing that JavaScript has validated, enqueues on the
// context's stream and returns: it never allocates, synchronises, throws or exits. It runs inside stream capture too.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "arch.h"
#include "octet/op.h"

namespace octet::cuda {

struct CublasLt;  // opened at run time, cublaslt.h

struct DeviceInfo {
  int ordinal;
  int arch;         // 90 for compute capability 9.0
  int sms;
  int smem_optin;   // most dynamic shared memory of a block, bytes
  bool has_cublaslt;
};

class CudaContext {
 public:
  virtual ~CudaContext() = default;
  virtual cudaStream_t stream() const = 0;
  virtual const DeviceInfo& device() const = 0;
  // Device memory that keeps its address for the life of the queue and grows only outside capture; contents are
  // undefined between launches. nullptr when memory is out.
  virtual void* workspace(size_t bytes) = 0;
  // Device counters, zero at every kernel's start: a kernel that counts up resets what it touched before it ends.
  virtual uint32_t* counters(size_t count) = 0;
  virtual CublasLt* cublaslt() = 0;  // nullptr: not found
  // Whether the call's kernel may start before its predecessor has ended: not where one of those may be writing its weight (t1),
  // which linear and rmsNorm read before they wait.
  virtual bool overlaps() = 0;
  // Set by kernels that saw a bad index; read at the next synchronisation. One 32-bit word in device memory.
  virtual int32_t* fault_word() = 0;
};

struct Variant {
  const char* name;
  Archs archs;
  bool (*fits)(const OpCall&, const DeviceInfo&);
  Status (*launch)(const OpCall&, CudaContext&);
};

struct OpVariants {
  const Variant* rows;
  int count;
};

// Whether a call may run a row on a device; `forced` names the only row that may, where it is not empty.
inline bool takes(const Variant& v, const OpCall& call, const DeviceInfo& device, const std::string& forced = {}) {
  return v.archs.hold(device.arch) && (forced.empty() || forced == v.name) && v.fits(call, device);
}

// Ends every op's file: the table the runtime finds by the op's name.
#define OCTET_CUDA_OP(op, rows)                                                             \
  extern const ::octet::cuda::OpVariants octet_cuda_##op;                                   \
  const ::octet::cuda::OpVariants octet_cuda_##op{rows, static_cast<int>(sizeof(rows) / sizeof(rows[0]))};

inline bool always(const OpCall&, const DeviceInfo&) { return true; }

inline Status launched() { return cudaPeekAtLastError() == cudaSuccess ? Status::ok : Status::internal; }

inline unsigned blocks_for(int64_t work, int64_t per_block, int64_t most = 1 << 16) {
  const int64_t n = (work + per_block - 1) / per_block;
  return static_cast<unsigned>(n < 1 ? 1 : n > most ? most : n);
}

}  // namespace octet::cuda

#include "cublaslt.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <tuple>

namespace octet::cuda {

// The library's names for what we use; values are its published ABI.
using Handle = void*;
using Opaque = void*;
constexpr int kCompute32f = 68, kR32f = 0;
constexpr int kDescTransA = 3, kDescEpilogue = 7, kDescBiasPointer = 8, kDescScaleA = 17, kDescScaleB = 18, kDescFastAccum = 25,
              kDescBiasType = 26, kDescScaleModeA = 31, kDescScaleModeB = 32;
constexpr int kEpilogueBias = 4, kPreferWorkspace = 1, kPreferReduction = 3, kReduceInCompute = 2, kOpT = 1;

struct Algorithm { uint64_t data[8]; };
struct Heuristic {
  Algorithm algorithm;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};

struct CublasLt {
  void* library = nullptr;
  std::string path;
  Handle handle = nullptr;
  size_t (*version)();
  int (*create)(Handle*);
  int (*destroy)(Handle);
  int (*desc_create)(Opaque*, int, int);
  int (*desc_destroy)(Opaque);
  int (*desc_set)(Opaque, int, const void*, size_t);
  int (*layout_create)(Opaque*, int, uint64_t, uint64_t, int64_t);
  int (*layout_destroy)(Opaque);
  int (*preference_create)(Opaque*);
  int (*preference_destroy)(Opaque);
  int (*preference_set)(Opaque, int, const void*, size_t);
  int (*heuristic)(Handle, Opaque, Opaque, Opaque, Opaque, Opaque, Opaque, int, Heuristic*, int*);
  int (*matmul)(Handle, Opaque, const void*, const void*, Opaque, const void*, Opaque, const void*, const void*, Opaque, void*, Opaque, const Algorithm*,
                void*, size_t, cudaStream_t);

  struct Plan {
    bool usable = false;
    Opaque desc = nullptr, a = nullptr, b = nullptr, d = nullptr;
    Algorithm algorithm{};
  };
  struct Less {
    bool operator()(const LtGemm& p, const LtGemm& q) const {
      const auto key = [](const LtGemm& g) {
        return std::tuple(g.m, g.n, g.k, g.ldx, g.ldw, g.ldy, g.x_type, g.w_type, g.y_type, g.scale, g.bias, g.residual);
      };
      return key(p) < key(q);
    }
  };
  std::mutex mutex;  // several queues of one process may plan and set pointers at once
  std::map<LtGemm, Plan, Less> plans;
};

template <class F> static bool bind(CublasLt& lt, F& f, const char* name) {
  f = reinterpret_cast<F>(dlsym(lt.library, name));
  return f != nullptr;
}

static bool bind_all(CublasLt& lt) {
  return bind(lt, lt.version, "cublasLtGetVersion") && bind(lt, lt.create, "cublasLtCreate") && bind(lt, lt.destroy, "cublasLtDestroy") &&
         bind(lt, lt.desc_create, "cublasLtMatmulDescCreate") && bind(lt, lt.desc_destroy, "cublasLtMatmulDescDestroy") &&
         bind(lt, lt.desc_set, "cublasLtMatmulDescSetAttribute") && bind(lt, lt.layout_create, "cublasLtMatrixLayoutCreate") &&
         bind(lt, lt.layout_destroy, "cublasLtMatrixLayoutDestroy") && bind(lt, lt.preference_create, "cublasLtMatmulPreferenceCreate") &&
         bind(lt, lt.preference_destroy, "cublasLtMatmulPreferenceDestroy") &&
         bind(lt, lt.preference_set, "cublasLtMatmulPreferenceSetAttribute") && bind(lt, lt.heuristic, "cublasLtMatmulAlgoGetHeuristic") &&
         bind(lt, lt.matmul, "cublasLtMatmul");
}

CublasLt* open_cublaslt() {
  const char* named = std::getenv("OCTET_CUBLASLT");
  const char* const names[] = {named, "libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
  for (const char* name : names) {
    if (name == nullptr || *name == '\0') continue;
    auto* lt = new CublasLt;
    lt->library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    lt->path = name;
    if (lt->library != nullptr && bind_all(*lt) && lt->create(&lt->handle) == 0) return lt;
    if (lt->library != nullptr) dlclose(lt->library);
    delete lt;
  }
  return nullptr;
}

void close_cublaslt(CublasLt* lt) {
  if (lt == nullptr) return;
  for (auto& [key, plan] : lt->plans) {
    for (Opaque layout : {plan.a, plan.b, plan.d}) {
      if (layout != nullptr) lt->layout_destroy(layout);
    }
    if (plan.desc != nullptr) lt->desc_destroy(plan.desc);
  }
  lt->destroy(lt->handle);
  dlclose(lt->library);
  delete lt;
}

size_t cublaslt_version(const CublasLt* lt) { return lt->version(); }
const char* cublaslt_path(const CublasLt* lt) { return lt->path.c_str(); }

// The library is column-major: it sees D' [N, M] = W' transposed times X', where a row-major matrix is its transpose.
static CublasLt::Plan make_plan(CublasLt& lt, const LtGemm& g, const LtPointers& p) {
  CublasLt::Plan plan;
  const auto set = [&](int attribute, const auto& value) { return lt.desc_set(plan.desc, attribute, &value, sizeof value) == 0; };
  bool ok = lt.desc_create(&plan.desc, kCompute32f, kR32f) == 0 && set(kDescTransA, kOpT);
  ok = ok && lt.layout_create(&plan.a, static_cast<int>(g.w_type), g.k, g.n, g.ldw) == 0 &&
       lt.layout_create(&plan.b, static_cast<int>(g.x_type), g.k, g.m, g.ldx) == 0 && lt.layout_create(&plan.d, static_cast<int>(g.y_type), g.n, g.m, g.ldy) == 0;
  if (ok && g.scale != LtScale::none) {
    const int8_t fast = 1;
    const int mode = static_cast<int>(g.scale);
    ok = set(kDescFastAccum, fast) && set(kDescScaleA, p.w_scale) && set(kDescScaleB, p.x_scale);
    if (g.scale != LtScale::scalar) ok = ok && set(kDescScaleModeA, mode) && set(kDescScaleModeB, mode);
  }
  if (ok && g.bias) {
    const int type = static_cast<int>(g.y_type);
    ok = set(kDescEpilogue, kEpilogueBias) && set(kDescBiasPointer, p.bias) && set(kDescBiasType, type);
  }
  Opaque preference = nullptr;
  Heuristic best[1];
  int found = 0;
  const size_t workspace = kLtWorkspace;
  const uint32_t reduction = kReduceInCompute;  // a product cut along K is summed in float32, not in the output's type
  ok = ok && lt.preference_create(&preference) == 0 && lt.preference_set(preference, kPreferWorkspace, &workspace, sizeof workspace) == 0 &&
       lt.preference_set(preference, kPreferReduction, &reduction, sizeof reduction) == 0 &&
       lt.heuristic(lt.handle, plan.desc, plan.a, plan.b, plan.d, plan.d, preference, 1, best, &found) == 0 && found == 1;
  if (preference != nullptr) lt.preference_destroy(preference);
  plan.usable = ok;
  if (ok) plan.algorithm = best[0].algorithm;
  return plan;
}

bool cublaslt_gemm(CublasLt* lt, const LtGemm& g, const LtPointers& p, void* workspace, cudaStream_t stream) {
  const std::lock_guard<std::mutex> lock(lt->mutex);
  auto at = lt->plans.find(g);
  if (at == lt->plans.end()) at = lt->plans.emplace(g, make_plan(*lt, g, p)).first;
  CublasLt::Plan& plan = at->second;
  if (!plan.usable) return false;
  if (g.scale != LtScale::none) {
    lt->desc_set(plan.desc, kDescScaleA, &p.w_scale, sizeof p.w_scale);
    lt->desc_set(plan.desc, kDescScaleB, &p.x_scale, sizeof p.x_scale);
  }
  if (g.bias) lt->desc_set(plan.desc, kDescBiasPointer, &p.bias, sizeof p.bias);
  const float one = 1.f, beta = g.residual ? 1.f : 0.f;
  const void* c = g.residual ? p.residual : p.y;
  return lt->matmul(lt->handle, plan.desc, &one, p.w, plan.a, p.x, plan.b, &beta, c, plan.d, p.y, plan.d, &plan.algorithm, workspace, kLtWorkspace, stream) == 0;
}

}  // namespace octet::cuda

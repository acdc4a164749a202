// Rotation of one head's row, its optional RMSNorm, and the write into a paged cache: shared by rope, kvAppend and
// ropeKvAppend.
#pragma once
#include "norm_rows.h"

namespace octet::cpu::OCTET_LEVEL {

// x[D] turned in place by the angles of one position: pairs (i, i + D/2), or (2i, 2i + 1) when interleaved.
inline void rotate(float* x, int64_t d, const float* cosine, const float* sine, bool interleaved) {
  const int64_t half = d / 2;
  if (interleaved) {
    for (int64_t i = 0; i < half; ++i) {
      const float a = x[2 * i], b = x[2 * i + 1], c = cosine[i], s = sine[i];
      x[2 * i] = a * c - b * s;
      x[2 * i + 1] = b * c + a * s;
    }
    return;
  }
  for (int64_t i = 0; i < half; i += kLanes) {
    const int64_t n = half - i;
    const F32 a = load_n(x + i, n), b = load_n(x + half + i, n);
    const F32 c = load_n(cosine + i, n), s = load_n(sine + i, n);
    store_n(x + i, a * c - b * s, n);
    store_n(x + half + i, b * c + a * s, n);
  }
}

// RMSNorm over one head, in place and in float32 (rounded before the weight when `w.cast_first`).
inline void norm_head(float* x, int64_t d, float eps, const NormWeight& w) {
  by_activation(w.weight->dtype, [&]<class W>(W*) {
    apply_norm<W, W>(x, d, 0.0f, rms_factor(x, d, eps), w, x);
    return Status::ok;
  });
}

// The paged cache: [pages, Hkv, pageSize, D]; token at position p of sequence row b lies in page table[b][p / pageSize].
struct PagedCache {
  const TensorArg* cache;
  const TensorArg* table;  // i32 [B, P]
  const TensorArg* scale_inv;  // f32 [Hkv] or null: a stored value v means v * scale_inv[h]

  OCTET_INLINE int64_t page_size() const { return cache->shape[2]; }
  OCTET_INLINE int64_t dim() const { return cache->shape[3]; }
  // Elements before [page, head, slot, 0].
  OCTET_INLINE int64_t offset(int64_t page, int64_t head, int64_t slot) const {
    return ((page * cache->shape[1] + head) * cache->shape[2] + slot) * cache->row_stride;
  }
  // The page that holds `position` of sequence row b, or -1 when the arguments lead outside the table or the cache.
  OCTET_INLINE int64_t page_of(int64_t b, int64_t position) const {
    const int64_t column = position / page_size();
    if (!in_range(b, table->rows()) || !in_range(column, table->cols())) return -1;
    const int64_t page = table->as<const int32_t>()[b * table->row_stride + column];
    return in_range(page, cache->shape[0]) ? page : -1;
  }
};

// Writes one head's float32 row x[D] to its place: x * (1 / scaleInv), rounded once (saturating to FP8).
inline Status write_token(const PagedCache& c, int64_t b, int64_t position, int64_t head, float* x) {
  const int64_t page = c.page_of(b, position);
  if (page < 0) return Status::bad_index;
  const int64_t d = c.dim();
  if (c.scale_inv != nullptr) {
    const float factor = 1.0f / c.scale_inv->as<const float>()[head];
    for (int64_t i = 0; i < d; i += kLanes) store_n(x + i, load_n(x + i, d - i) * factor, d - i);
  }
  return by_float(c.cache->dtype, [&]<class C>(C*) {
    store_as(c.cache->as<C>() + c.offset(page, head, position % c.page_size()), x, d);
    return Status::ok;
  });
}

OCTET_INLINE bool is_cache(DType t) { return t == DType::f32 || t == DType::bf16 || t == DType::e4m3; }

}  // namespace octet::cpu::OCTET_LEVEL

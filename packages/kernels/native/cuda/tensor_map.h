// Tensor maps for the bulk tensor copy engine, encoded through the driver without linking against it.
#pragma once
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace octet::cuda {

// A row-major [rows, cols] matrix of 1- or 2-byte elements read in boxes of `span` bytes by `box_rows` rows, swizzled over
// `span` (64 or 128) bytes. Out-of-range elements read as zero. False where the driver lacks the call or refuses the
// shape (the row pitch must be a multiple of 16 bytes, the base 16-byte aligned).
bool encode_rows(CUtensorMap* map, const void* base, int item_bytes, int64_t rows, int64_t cols, int64_t row_stride, int box_rows, int span);

}  // namespace octet::cuda

import { expect, it } from 'vitest'
import { ERROR_CODES } from './index.js'

// Codes are stable: users switch on them. A line that leaves this list is a breaking change; a new one is added at its place.
it('the list of error codes', () => {
  expect(Object.keys(ERROR_CODES)).toMatchInlineSnapshot(`
    [
      "INVALID_ARGUMENT",
      "SHAPE_MISMATCH",
      "DTYPE_MISMATCH",
      "NOT_SUPPORTED",
      "DISPOSED",
      "TENSOR_IN_GRAPH",
      "CAPTURE_READ",
      "OUT_OF_MEMORY",
      "DEVICE_NOT_FOUND",
      "DEVICE_LOST",
      "OP_FAILED",
      "NATIVE_NOT_FOUND",
      "ABI_MISMATCH",
      "DUPLICATE_KERNELS",
      "FILE_NOT_FOUND",
      "FILE_CHANGED",
      "FILE_WRITE_FAILED",
      "INVALID_SAFETENSORS",
      "INVALID_TORCH_FILE",
      "UNSAFE_PICKLE",
      "INVALID_JSON",
      "INVALID_INDEX",
      "INVALID_CONFIG",
      "UNSUPPORTED_MODEL",
      "CHECKPOINT_MISMATCH",
      "MISSING_SCALE",
      "INVALID_TOKENIZER",
      "INVALID_TEMPLATE",
      "WORKER_TIMEOUT",
      "HUB_FAILED",
      "HASH_MISMATCH",
      "KV_CACHE_FULL",
      "CONTEXT_TOO_LONG",
      "STREAM_CONSUMED",
      "RECIPE_NOT_SUPPORTED",
      "RECIPE_NOT_CALIBRATED",
      "USAGE",
      "INTERNAL",
    ]
  `)
})

it('every code says in one sentence what it means', () => {
  for (const [code, meaning] of Object.entries(ERROR_CODES)) {
    expect(code).toMatch(/^[A-Z0-9]+(_[A-Z0-9]+)*$/)
    expect(meaning).toMatch(/^[A-Z].*\.$/)
  }
})

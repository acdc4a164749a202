import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { itemSize } from '@octet-llm/core'
import { readFile as op } from '../ops/read-file.js'
import type { ContractCase, OpContract, Run } from './contract.js'
import { decode, product, sampled } from './host.js'

const DTYPES = ['u8', 'bf16', 'i32'] as const
/** Past the piece that one thread reads at a time. */
const LARGE = 4 * 2 ** 20 + 4096

/** A file that is unlinked once open: its descriptor stays good until the process ends or the caller closes it. */
function openBytes(bytes: Uint8Array): number {
  const dir = mkdtempSync(join(tmpdir(), 'octet-contract-'))
  try {
    writeFileSync(join(dir, 'data'), bytes)
    return openSync(join(dir, 'data'), 'r')
  } finally {
    rmSync(dir, { recursive: true })
  }
}

/** Descriptors of finished runs; a read is over before its batch is. */
const open: number[] = []
const KEEP_OPEN = 64
function keepOpen(fd: number): number {
  open.push(fd)
  if (open.length > KEEP_OPEN) closeSync(open.shift()!)
  return fd
}

function run(bytes: Uint8Array, offset: number, dtype: (typeof DTYPES)[number], count: number): Run {
  const fd = keepOpen(openBytes(bytes))
  const part = bytes.subarray(offset, offset + count * itemSize(dtype))
  return {
    inputs: {},
    outputs: { out: { dtype, shape: [count] } },
    call: ({ out }) => void op({ out: out!, fd, offset }),
    expected: () => ({ out: { values: decode(part, dtype) } }),
  }
}

function* cases(): Generator<ContractCase> {
  let index = 0
  for (const { name, at } of product({ out: DTYPES, count: [0, 1, 5, 1000, LARGE], offset: [0, 1, 4097] })) {
    yield {
      name,
      quick: at.count === LARGE ? at.out === 'u8' && at.offset === 4097 : sampled(index++, 2),
      make(random) {
        const bytes = Uint8Array.from({ length: at.offset + at.count * itemSize(at.out) + 3 }, () => random.below(128))
        return run(bytes, at.offset, at.out, at.count)
      },
    }
  }
  yield {
    name: 'bad=short-file',
    quick: true,
    make: () => ({ ...run(new Uint8Array(10), 4, 'u8', 7), fails: 'FILE_CHANGED' }),
  }
}

export const readFile: OpContract = {
  op: 'readFile',
  signature: 'out [...] any dtype; fd, offset',
  tolerance: 'exact',
  bytes: ({ N = 1 }) => 2 * N,
  flops: () => 0,
  cases,
}

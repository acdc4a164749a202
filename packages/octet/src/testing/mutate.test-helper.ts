import { philox4x32 } from '@octet-llm/core'

/** A seeded source of random whole numbers. */
export class Random {
  #counter = 0

  constructor(private readonly seed: number) {}

  /** 0 … bound − 1. */
  below(bound: number): number {
    return philox4x32([this.#counter++, 0, 0, 0], [this.seed, 0])[0] % Math.max(1, bound)
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!
  }
}

/** Values that parsers stumble over. */
const TOKENS = ['null', 'true', '[]', '{}', '""', '-1', '0', '1e309', '99999999999999999999', '4294967296', '2147483647', '0.5', '"__proto__"', '"../../etc/passwd"', '"\\ud800"', '[[[[[[[[', '{"a":', '\\', '"', '\u0000', '{{', '{% for x in range(99999999) %}', '{% endfor %}', '(a+)+$']

const replaceRange = (bytes: Buffer, begin: number, end: number, by: Uint8Array): Buffer => Buffer.concat([bytes.subarray(0, begin), by, bytes.subarray(end)])

/** Half of the hits go to the head of a file, where lengths and headers lie. */
function place(bytes: Buffer, random: Random): number {
  return random.below(2) === 0 ? random.below(Math.min(bytes.length, 4096)) : random.below(bytes.length)
}

const MUTATIONS: readonly ((bytes: Buffer, random: Random) => Buffer)[] = [
  function flipBytes(bytes, random) {
    const copy = Buffer.from(bytes)
    for (let i = 0; i <= random.below(8); i++) copy[place(copy, random)]! ^= 1 << random.below(8)
    return copy
  },
  function truncate(bytes, random) {
    return bytes.subarray(0, random.below(4) === 0 ? random.below(16) : random.below(bytes.length))
  },
  function remove(bytes, random) {
    const begin = place(bytes, random)
    return replaceRange(bytes, begin, begin + 1 + random.below(64), Buffer.alloc(0))
  },
  function repeat(bytes, random) {
    const begin = place(bytes, random)
    return replaceRange(bytes, begin, begin, bytes.subarray(begin, begin + 1 + random.below(256)))
  },
  function insertNoise(bytes, random) {
    const begin = place(bytes, random)
    return replaceRange(bytes, begin, begin, Buffer.from(Array.from({ length: 1 + random.below(16) }, () => random.below(256))))
  },
  function writeToken(bytes, random) {
    const begin = place(bytes, random)
    return replaceRange(bytes, begin, begin + random.below(8), Buffer.from(random.pick(TOKENS)))
  },
  function changeNumber(bytes, random) {
    const numbers = [...bytes.subarray(0, 65536).toString('latin1').matchAll(/\d+/g)]
    if (numbers.length === 0) return bytes.subarray(1)
    const match = random.pick(numbers)
    return replaceRange(bytes, match.index, match.index + match[0].length, Buffer.from(random.pick(TOKENS)))
  },
  function setLength(bytes, random) {
    const copy = Buffer.from(bytes)
    if (copy.length >= 8) copy.writeBigUInt64LE(random.pick([0n, 1n, 7n, 2n ** 31n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n, BigInt(copy.length), BigInt(copy.length - 8)]))
    return copy
  },
]

/** Values of every kind, for a place in a parsed file. */
const VALUES: readonly unknown[] = [null, true, false, '', [], {}, 0, -1, 1, 0.5, 1e300, 2 ** 31, 2 ** 53, 'x', '../x', '/etc/passwd', '\u0000', [[]], [0], [-1], [2 ** 40, 2 ** 40], 'F32', 'F4', 'llama', 'gemma3']

type Container = Record<string, unknown> | unknown[]

function containersOf(value: unknown, found: Container[] = []): Container[] {
  if (typeof value !== 'object' || value === null) return found
  found.push(value as Container)
  for (const child of Object.values(value)) containersOf(child, found)
  return found
}

/** Changes, removes, renames or copies one member somewhere in a parsed JSON file. */
function mutateMember(root: unknown, random: Random): void {
  const container = random.pick(containersOf(root).filter((each) => Object.keys(each).length > 0)) as Record<string, unknown>
  const keys = Object.keys(container)
  const key = random.pick(keys)
  const action = random.below(4)
  if (action === 0) container[key] = random.pick(VALUES)
  else if (action === 1) delete container[key]
  else if (action === 2) container[key] = container[random.pick(keys)]
  else container[`${key}x`] = container[key]
}

function tryParse(text: string): unknown {
  try {
    return JSON.parse(text) as unknown
  } catch {
    return undefined
  }
}

/** The JSON of a file, or of a safetensors header, with one member changed; undefined for other files. */
function mutateStructure(bytes: Buffer, random: Random): Buffer | undefined {
  const whole = bytes[0] === 0x7b ? tryParse(bytes.toString('utf8')) : undefined
  if (whole !== undefined) {
    mutateMember(whole, random)
    return Buffer.from(JSON.stringify(whole))
  }
  const length = bytes.length > 8 ? Number(bytes.readBigUInt64LE()) : 0
  const header = length > 0 && length < bytes.length ? tryParse(bytes.toString('utf8', 8, 8 + length)) : undefined
  if (header === undefined) return undefined
  mutateMember(header, random)
  const text = Buffer.from(JSON.stringify(header))
  const head = Buffer.alloc(8)
  head.writeBigUInt64LE(BigInt(text.length))
  return Buffer.concat([head, text, bytes.subarray(8 + length)])
}

/** `bytes` damaged: half of the JSON files in one member, the others in one to three places. The same for the same seed. */
export function mutate(bytes: Buffer, seed: number): Buffer {
  const random = new Random(seed)
  const structured = random.below(2) === 0 ? mutateStructure(bytes, random) : undefined
  if (structured !== undefined) return structured
  let result = bytes
  for (let i = 0; i <= random.below(3); i++) if (result.length > 0) result = random.pick(MUTATIONS)(result, random)
  return result
}

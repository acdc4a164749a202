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

/** One to three mutations of `bytes`; the same for the same seed. */
export function mutate(bytes: Buffer, seed: number): Buffer {
  const random = new Random(seed)
  let result = bytes
  for (let i = 0; i <= random.below(3); i++) if (result.length > 0) result = random.pick(MUTATIONS)(result, random)
  return result
}

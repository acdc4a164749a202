// What a fresh clone needs beside Node: CMake and a C++20 compiler. Each gap is one sentence with its remedy.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { run } from './proc.mjs'

const MIN_NODE = [20, 19]
const MIN_CMAKE = [3, 20]
// Library features too: GCC 8 takes -std=c++2a and has none of these.
const PROBE = `#include <bit>
#include <concepts>
#include <span>
static_assert(__cplusplus >= 202002L, "C++20");
template <std::integral T> int bits(T x) { return std::popcount(static_cast<unsigned>(x)); }
int main() { int a[2] = {1, 2}; std::span<int> s(a); return bits(s[0]) - 1; }
`

function atLeast(version, minimum) {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  return major > minimum[0] || (major === minimum[0] && minor >= minimum[1])
}

export function nodeProblem(version = process.versions.node) {
  return atLeast(version, MIN_NODE) ? null : `Node ${version} is too old: install Node ${MIN_NODE.join('.')} or newer (24 is recommended).`
}

async function cmakeProblem() {
  const { code, stdout } = await run('cmake', ['--version'])
  if (code === 127) return 'CMake is not installed: install it (Debian and Ubuntu: apt install cmake; macOS: brew install cmake) and run this again.'
  const version = /version (\d+\.\d+[.\d]*)/.exec(stdout)?.[1] ?? '0.0'
  return atLeast(version, MIN_CMAKE) ? null : `CMake ${version} is too old: install CMake ${MIN_CMAKE.join('.')} or newer and run this again.`
}

async function compilerProblem() {
  const candidates = process.env.CXX ? [process.env.CXX] : ['c++', 'g++', 'clang++']
  const dir = mkdtempSync(join(tmpdir(), 'octet-probe-'))
  const source = join(dir, 'probe.cc')
  writeFileSync(source, PROBE)
  const tried = []
  try {
    for (const compiler of candidates) {
      const { code } = await run(compiler, ['-std=c++20', '-fsyntax-only', source])
      if (code === 0) return null
      if (code !== 127) tried.push(compiler)
    }
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
  return tried.length === 0
    ? 'No C++ compiler was found: install one (Debian and Ubuntu: apt install g++; macOS: xcode-select --install) and run this again.'
    : `The C++ compiler (${tried.join(', ')}) does not know C++20: install GCC 11, Clang 14 or newer, or name one in CXX, and run this again.`
}

/** The first thing missing, as a sentence, or null. */
export async function toolchainProblem() {
  return nodeProblem() ?? (await cmakeProblem()) ?? (await compilerProblem())
}

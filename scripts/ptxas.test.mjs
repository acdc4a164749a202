// The CUDA build's report of spills, and what it lets pass.
import { expect, it } from 'vitest'
import { overspills, parseLog, updateReport } from '../packages/kernels/scripts/ptxas.mjs'

const kernel = (name, arch, stores, loads) => `ptxas info    : Compiling entry function '${name}' for '${arch}'
ptxas info    : Function properties for ${name}
    ${stores} bytes stack frame, ${stores} bytes spill stores, ${loads} bytes spill loads
ptxas info    : Used 42 registers, used 1 barriers\n`
const log = `[1/3] Building CUDA object CMakeFiles/octet_cuda.dir/fill.cu.o
ptxas info    : 0 bytes gmem\n${kernel('_Z4fillv', 'sm_90a', 0, 0)}${kernel('_Z4fillv', 'sm_80', 0, 4)}[2/3] Building CUDA object CMakeFiles/octet_cuda.dir/runtime/repack.cu.o
${kernel('_Z6repackv', 'sm_90a', 24, 8)}[3/3] Linking CXX shared library octet_cuda.node`

it('reads kernels by file and architecture', () => {
  const report = parseLog(log)
  expect(Object.keys(report)).toEqual(['fill.cu', 'runtime/repack.cu'])
  expect(report['fill.cu'].map(({ arch, spillLoads, registers }) => [arch, spillLoads, registers])).toEqual([['sm_90a', 0, 42], ['sm_80', 4, 42]])
  expect(report['runtime/repack.cu']).toEqual([{ kernel: '_Z6repackv', arch: 'sm_90a', registers: 42, stack: 24, spillStores: 24, spillLoads: 8 }])
  expect(parseLog('ninja: no work to do.')).toEqual({})
})

it('keeps what was not compiled again, and forgets files that are gone', () => {
  expect(updateReport({ 'b.cu': [1], 'a.cu': [2], 'gone.cu': [3] }, { 'a.cu': [4] }, (file) => file !== 'gone.cu')).toEqual({ 'a.cu': [4], 'b.cu': [1] })
})

it('lets pass what is allowed, by loads and by stores', () => {
  const names = (allowances) => overspills(parseLog(log), allowances).map(({ file, arch }) => `${file} ${arch}`)
  expect(names([])).toEqual(['fill.cu sm_80', 'runtime/repack.cu sm_90a'])
  expect(names([{ kernel: '4fillv', bytes: 4 }])).toEqual(['runtime/repack.cu sm_90a'])
  expect(names([{ kernel: '4fillv', bytes: 3 }, { kernel: '6repack', bytes: 24 }])).toEqual(['fill.cu sm_80'])
})

import { expect, it } from 'vitest'
import { describeBackends, type BackendReport } from '@octet-llm/kernels'
import { fallbackNote } from './model-flags.js'

it('auto says why it takes the CPU beside a GPU, with the command that mends it', () => {
  const { cpu } = describeBackends()
  const without: BackendReport = { cpu, cuda: { available: false, reason: 'the CUDA binary is not built or installed', hint: 'npm run build:cuda in a checkout' } }
  expect(fallbackNote(without)).toBe('on the CPU, not the GPU: the CUDA binary is not built or installed; npm run build:cuda in a checkout (octet doctor tells more, --device cpu keeps quiet)')
  expect(fallbackNote({ cpu, cuda: { available: true, devices: [], driver: '13.0', cublasLt: null } })).toBeNull()
})

import { readFileSync } from 'node:fs'
import { availableParallelism, cpus, freemem, release, totalmem } from 'node:os'
import type { Command } from 'commander'
import { OctetError } from '@octet-llm/core'
import { MANIFEST, describeBackends, type BackendReport } from '@octet-llm/kernels'
import { version } from '../../version.js'
import type { Context } from '../context.js'
import { formatBytes, formatTable } from '../table.js'

/** One thing that was looked at. */
interface Finding {
  readonly name: string
  /** `warning`: it works, but not as well as it could. */
  readonly status: 'ok' | 'warning' | 'missing'
  readonly found: string
  /** What to do; only where something is not ok. */
  readonly remedy?: string
}

export function addDoctor(program: Command, { output, json }: Context): void {
  program
    .command('doctor')
    .description('say what this machine runs, what is missing and the command that mends it')
    .action(async () => {
      const findings = examine()
      if (json) {
        await output.json({ findings })
      } else {
        await output.write(formatTable(findings.map(({ name, status, found }) => [name, status, found])))
        for (const { name, remedy } of findings) if (remedy !== undefined) await output.write(`\n${name}: ${remedy}\n`)
      }
      if (findings.some(({ status }) => status === 'missing')) {
        throw new OctetError('NOT_SUPPORTED', { op: 'doctor', message: 'this machine cannot run models yet; see what is missing above', hint: 'see the findings' })
      }
    })
}

function examine(): Finding[] {
  const backends = describeBackends()
  return [
    { name: 'octet', status: 'ok', found: version },
    nodeFinding(),
    { name: 'system', status: 'ok', found: `${process.platform}-${process.arch} ${release()}, ${libc()}` },
    { name: 'cpu', status: 'ok', found: `${cpus()[0]?.model.trim() ?? 'unknown'}, ${availableParallelism()} usable` },
    { name: 'memory', status: 'ok', found: `${formatBytes(freemem())} free of ${formatBytes(totalmem())}` },
    kernelFinding(backends),
    cudaFinding(backends),
    ...cudaKernelFinding(backends),
  ]
}

function nodeFinding(): Finding {
  const found = process.versions.node
  return { name: 'node', status: 'ok', found: Number(found.split('.')[0]) >= 22 ? found : `${found} (24 is recommended)` }
}

/** The C library, which decides whether a prebuilt binary fits. */
function libc(): string {
  const { glibcVersionRuntime } = (process.report.getReport() as unknown as { header: { glibcVersionRuntime?: string } }).header
  return glibcVersionRuntime === undefined ? 'no glibc' : `glibc ${glibcVersionRuntime}`
}

function kernelFinding({ cpu }: BackendReport): Finding {
  if (!cpu.available) return { name: 'kernels', status: 'missing', found: 'no native binary', remedy: `${cpu.reason}; ${cpu.hint}` }
  const supported = cpu.levels.filter((level) => level.supported).map((level) => level.name)
  return { name: 'kernels', status: 'ok', found: `${cpu.chosen} (this CPU runs ${supported.join(', ')}), ${cpu.threads} threads` }
}

/** CUDA: what the machine has, and why it is not used. */
function cudaFinding({ cuda }: BackendReport): Finding {
  const driver = driverVersion()
  if (cuda.available) {
    const devices = cuda.devices
      .map(({ name, device, computeCapability, freeBytes, totalBytes }) => `${name} ${device} (sm_${computeCapability.join('')}, ${formatBytes(freeBytes)} free of ${formatBytes(totalBytes)})`)
      .join(', ')
    const found = `${devices}, driver ${driver ?? 'unknown'} for CUDA ${cuda.driver}`
    return cuda.cublasLt === null
      ? { name: 'cuda', status: 'warning', found, remedy: 'libcublasLt was not found: large products run on a slower kernel; install it (pip install nvidia-cublas, or the CUDA toolkit) and name the file in OCTET_CUBLASLT' }
      : { name: 'cuda', status: 'ok', found: `${found}, cuBLASLt ${cuda.cublasLt.version} (${cuda.cublasLt.path})` }
  }
  return driver === undefined
    ? { name: 'cuda', status: 'ok', found: 'no NVIDIA driver; models run on the CPU' }
    : { name: 'cuda', status: 'warning', found: `driver ${driver}`, remedy: `${cuda.reason}, so models run on the CPU; ${cuda.hint}` }
}

/** Version of the NVIDIA kernel module, e.g. 580.159.04. */
function driverVersion(): string | undefined {
  try {
    return /Kernel Module\s+(?:for \S+\s+)?(\S+)/.exec(readFileSync('/proc/driver/nvidia/version', 'utf8'))?.[1]
  } catch {
    return undefined
  }
}

/** The kernels that ops with several of them choose among on the first GPU, and those that it lacks. */
function cudaKernelFinding({ cuda }: BackendReport): Finding[] {
  if (!cuda.available) return []
  const hopper = cuda.devices[0]?.computeCapability.join('') === '90'
  const lacking: string[] = []
  const lists = Object.entries(MANIFEST.cuda).flatMap(([op, row]) => {
    if (!('variants' in row) || Object.keys(row.variants).length < 2) return []
    const usable = Object.entries(row.variants).filter(([name, asks]) => {
      const lack = asks.startsWith('sm_90') && !hopper ? 'an sm_90 GPU' : name === 'cublaslt' && cuda.cublasLt === null ? 'libcublasLt' : undefined
      if (lack !== undefined) lacking.push(`${op} ${name} needs ${lack}`)
      return lack === undefined
    })
    return [`${op}: ${usable.map(([name]) => name).join(', ')}`]
  })
  const found = lists.join('; ')
  return [lacking.length === 0 ? { name: 'cuda kernels', status: 'ok', found } : { name: 'cuda kernels', status: 'warning', found, remedy: `${lacking.join(', ')}; portable kernels run instead` }]
}

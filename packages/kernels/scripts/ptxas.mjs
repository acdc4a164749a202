// What ptxas -v says of every kernel, kept by source file over incremental builds, and which spills are let pass.

/** @typedef {{ kernel: string, arch: string, registers: number, stack: number, spillStores: number, spillLoads: number }} Row */

const KERNEL = /Compiling entry function '(\S+)' for '(\S+)'[\s\S]*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads[\s\S]*?Used (\d+) registers/g

/** Rows by source file, of the files that this build's log compiled. @returns {Record<string, Row[]>} */
export function parseLog(log) {
  const [, ...parts] = log.split(/Building CUDA object \S*octet_cuda\.dir\/(\S+?\.cu)\.o/)
  const files = {}
  for (let i = 0; i < parts.length; i += 2) {
    files[parts[i]] = [...parts[i + 1].matchAll(KERNEL)].map(([, kernel, arch, stack, stores, loads, registers]) => ({
      kernel, arch, registers: Number(registers), stack: Number(stack), spillStores: Number(stores), spillLoads: Number(loads),
    }))
  }
  return files
}

/** The report after a build that compiled `fresh`: files that are gone leave it. */
export function updateReport(kept, fresh, exists) {
  return Object.fromEntries(Object.entries({ ...kept, ...fresh }).filter(([file]) => exists(file)).sort(([a], [b]) => (a < b ? -1 : 1)))
}

/**
 * Kernels that spill more than they are allowed. A fast row may not spill at all; an allowance names a kernel by a pattern
 * of its mangled name, the bytes it may store, and the reason.
 * @param {Record<string, Row[]>} report
 * @param {{ kernel: string, bytes: number, reason: string }[]} allowances
 */
export function overspills(report, allowances) {
  const rows = Object.entries(report).flatMap(([file, list]) => list.map((row) => ({ file, ...row })))
  return rows.filter(({ kernel, spillStores, spillLoads }) => {
    const allowed = Math.max(0, ...allowances.filter((each) => new RegExp(each.kernel).test(kernel)).map(({ bytes }) => bytes))
    return Math.max(spillStores, spillLoads) > allowed
  })
}

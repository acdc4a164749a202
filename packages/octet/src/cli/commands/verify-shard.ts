/** One thread of `octet verify`: opens a device of its own and runs its share of the table. */
import { parentPort, workerData } from 'node:worker_threads'
import { openDevice } from '@octet-llm/kernels'
import { runTable, type CaseResult, type TableOptions, type TableResult } from '@octet-llm/kernels/contracts'

export interface ShardOrder extends Pick<TableOptions, 'filter' | 'reduced' | 'shard'> {
  readonly device: 'cuda' | `cuda:${number}`
}

/** What comes back: failing cases as they are found, then the result. */
export type ShardReport = { readonly fault: CaseResult } | { readonly result: TableResult }

async function run({ device: name, ...options }: ShardOrder): Promise<void> {
  const port = parentPort!
  const device = await openDevice(name)
  try {
    const onCase = (fault: CaseResult): void => {
      if (fault.fault !== null) port.postMessage({ fault } satisfies ShardReport)
    }
    port.postMessage({ result: await runTable({ ...options, device, onCase }) } satisfies ShardReport)
  } finally {
    await device.dispose()
  }
}

await run(workerData as ShardOrder)

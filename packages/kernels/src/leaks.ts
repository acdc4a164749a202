let warned = false

/** What outlives a leaked tensor's storage, to tell a leak from a proper end. */
export interface LeakRecord {
  freed: boolean
  readonly bytes: number
}

const registry = new FinalizationRegistry<LeakRecord>((record) => {
  if (record.freed || warned) return
  warned = true
  process.emitWarning(
    `A tensor of ${record.bytes} bytes was garbage-collected without dispose(): its device memory is lost until the device is disposed. Use scope(fn) or dispose().`,
    { code: 'OCTET_TENSOR_LEAK', type: 'OctetWarning' },
  )
})

/** Watches an owner of device memory. A leak is only reported, once a process; nothing is freed. */
export function watchLeak(owner: object, record: LeakRecord): void {
  registry.register(owner, record)
}

import type { Tensor } from '@octet-llm/kernels'
import type { DeviceOps } from './device-ops.js'
import type { CacheEdit, Task } from './task.js'

/** A task whose next token is due, and the rows of the logits that belong to its sequences. */
export interface ReadyTask<Owner> {
  readonly owner: Owner
  readonly task: Task
  readonly rows: readonly number[]
}

/** What to do with a task once its token or its logits are on the host. */
export interface Selected<Owner> {
  readonly owner: Owner
  readonly accept: () => Promise<CacheEdit>
}

/** A task by its place in the step. */
type Placed<Owner> = ReadyTask<Owner> & { readonly place: number }

/**
 * Chooses tokens on the device where nothing needs the host, else brings the logits over; tasks that are chosen alike
 * share an op. Everything is enqueued before the first wait. The answer is in the order of `ready`.
 *
 * @param logits f32 [N, V]
 */
export async function selectTokens<Owner>(ops: DeviceOps, logits: Tensor, ready: readonly ReadyTask<Owner>[]): Promise<Selected<Owner>[]> {
  const groups = new Map<string, Placed<Owner>[]>()
  ready.forEach((item, place) => {
    const key = JSON.stringify(item.task.selection)
    groups.set(key, [...(groups.get(key) ?? []), { ...item, place }])
  })
  const selected: Selected<Owner>[] = []
  await Promise.all([...groups.values()].map((group) => selectGroup(ops, logits, group, selected)))
  return selected
}

async function selectGroup<Owner>(ops: DeviceOps, logits: Tensor, group: readonly Placed<Owner>[], selected: Selected<Owner>[]): Promise<void> {
  const rows = group.flatMap((item) => item.rows)
  const whole = rows.length === logits.shape[0] && rows.every((row, i) => row === i)
  const part = whole ? logits : ops.gather(logits, Int32Array.from(rows))
  try {
    const selection = group[0]!.task.selection
    if (selection.kind === 'logits' || selection.kind === 'logProbs') {
      acceptRows(await readScores(ops, part, selection.kind), logits.shape[1]!, group, selected)
      return
    }
    const ids = await (selection.kind === 'argmax'
      ? ops.argmax(part)
      : ops.sample(part, selection.sampling, selection.seed, group.map((item) => item.task.draw)))
    group.forEach(({ owner, task, place }, i) => {
      selected[place] = { owner, accept: () => task.acceptToken(ids[i]!) }
    })
  } finally {
    if (!whole) part.dispose()
  }
}

async function readScores(ops: DeviceOps, logits: Tensor, kind: 'logits' | 'logProbs'): Promise<Float32Array> {
  if (kind === 'logits') return logits.toFloat32Array()
  const logProbs = ops.logSoftmax(logits)
  try {
    return await logProbs.toFloat32Array()
  } finally {
    logProbs.dispose()
  }
}

function acceptRows<Owner>(values: Float32Array, vocabSize: number, group: readonly Placed<Owner>[], selected: Selected<Owner>[]): void {
  let next = 0
  for (const { owner, task, rows, place } of group) {
    const own = rows.map(() => values.subarray(next * vocabSize, ++next * vocabSize))
    selected[place] = { owner, accept: () => task.acceptScores(own) }
  }
}

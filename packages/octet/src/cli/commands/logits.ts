import { stat } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import type { Command } from 'commander'
import { OctetError } from '@octet-llm/core'
import { writeSafetensors, type TensorEntry } from '@octet-llm/hf-loader/safetensors'
import type { Tensor } from '@octet-llm/kernels'
import type { LanguageModel } from '../../language-model.js'
import type { Context } from '../context.js'
import { readInputIds, type InputIds } from '../input-ids.js'
import { addModelFlags, withModel, type ModelFlags } from '../model-flags.js'
import { describeDevice } from './generate.js'

interface LogitsFlags extends ModelFlags {
  readonly inputIds: string
  readonly output: string
  readonly hiddenStates?: boolean
}

export function addLogits(program: Command, context: Context): void {
  addModelFlags(program.command('logits').description('write the logits of whole sequences into a safetensors file'))
    .requiredOption('--input-ids <FILE>', 'token ids: {"input_ids": [[…]], "attention_mask": [[…]]?}')
    .requiredOption('--output <FILE>', 'safetensors file to write: logits [B, T, V] float32')
    .option('--hidden-states', 'write hidden.0 … hidden.n [B, T, hidden size] too')
    .action(async (flags: LogitsFlags) => {
      const input = await readInputIds(flags.inputIds)
      await checkOutput(flags.output)
      await withModel(flags, context, async (llm) => {
        const entries = await compute(llm, rectangular(input, llm), flags.hiddenStates === true)
        await writeSafetensors(flags.output, entries, { signal: context.signal })
        const tensors = Object.fromEntries(entries.map(({ name, shape }) => [name, shape]))
        if (context.json) await context.output.json({ output: flags.output, tensors, timings: { load_s: llm.loadSeconds }, device: describeDevice(llm) })
        else context.output.note(`wrote ${entries.map(({ name, shape }) => `${name} [${shape.join(', ')}]`).join(', ')} to ${flags.output}`)
      })
    })
}

/** Before a model is loaded for nothing. @throws OctetError `FILE_WRITE_FAILED` for a folder, or in one that does not exist */
async function checkOutput(path: string): Promise<void> {
  const refuse = (expected: string, received: string): never => {
    throw new OctetError('FILE_WRITE_FAILED', { op: 'logits', argument: '--output', expected, received, hint: 'name a file in a folder that exists' })
  }
  if ((await stat(path).catch(() => null))?.isDirectory() === true) refuse('a file', `the folder ${path}`)
  const parent = dirname(resolve(path))
  if ((await stat(parent).catch(() => null))?.isDirectory() !== true) refuse('a file in a folder that exists', `one in ${parent}`)
}

/** Rows of one length: shorter ones get pads on the left, which the mask leaves out. @throws OctetError `CONTEXT_TOO_LONG` */
function rectangular({ inputIds, attentionMask }: InputIds, llm: LanguageModel): Required<InputIds> {
  const width = inputIds.reduce((most, row) => Math.max(most, row.length), 0)
  const { maxPositionEmbeddings } = llm.info
  // Before anything is padded: one long row among many would multiply.
  if (width > maxPositionEmbeddings) {
    throw new OctetError('CONTEXT_TOO_LONG', { op: 'logits', argument: '--input-ids', expected: `rows of at most ${maxPositionEmbeddings} tokens`, received: `${width}`, hint: 'shorten the row' })
  }
  const pad = (row: readonly number[]): number[] => [...Array.from({ length: width - row.length }, () => 0), ...row]
  return { inputIds: inputIds.map(pad), attentionMask: (attentionMask ?? inputIds.map((row) => row.map(() => 1))).map(pad) }
}

async function compute(llm: LanguageModel, input: Required<InputIds>, hiddenStates: boolean): Promise<TensorEntry[]> {
  if (!hiddenStates) return [await entry('logits', llm.forward(input))]
  const { logits, hiddenStates: states } = llm.forward({ ...input, hiddenStates: true })
  return Promise.all([entry('logits', logits), ...states.map((state, i) => entry(`hidden.${i}`, state))])
}

/** Reads a tensor as float32 and frees it. */
async function entry(name: string, tensor: Tensor): Promise<TensorEntry> {
  try {
    return { name, dtype: 'f32', shape: tensor.shape, data: await tensor.toFloat32Array() }
  } finally {
    tensor.dispose()
  }
}

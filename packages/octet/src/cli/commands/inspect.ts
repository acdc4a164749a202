import { basename } from 'node:path'
import { type Command, Option } from 'commander'
import { formatShape, numel, type TensorSource } from '@octet-llm/core'
import { openCheckpoint, type Checkpoint } from '@octet-llm/hf-loader'
import { readConfig, type ModelConfig } from '@octet-llm/hf-loader/config'
import { resolveModel } from '@octet-llm/hf-loader/hub'
import { askBeforePull } from '../ask.js'
import type { Context } from '../context.js'
import { formatBytes, formatCount, formatTable } from '../table.js'

interface InspectFlags {
  readonly all?: boolean
  readonly revision?: string
  readonly yes?: boolean
}

export function addInspect(program: Command, context: Context): void {
  program
    .command('inspect')
    .description('show what a checkpoint holds')
    .argument('<DIR|HUB_ID>', 'folder of a checkpoint, or its name on the hub')
    .addOption(new Option('--all', 'every tensor on a line of its own'))
    .addOption(new Option('--revision <NAME>', 'branch, tag or commit on the hub'))
    .addOption(new Option('--yes', 'download without asking'))
    .action(async (source: string, flags: InspectFlags) => {
      const { signal } = context
      const { dir } = await resolveModel(source, { signal, revision: flags.revision, confirm: askBeforePull(flags.yes === true, context) })
      const config = await readConfig(dir, { signal })
      const checkpoint = await openCheckpoint(dir, { signal })
      try {
        if (context.json) await context.output.json(report(config, checkpoint))
        else await context.output.write(render(config, checkpoint, flags.all === true))
      } finally {
        await checkpoint.close()
      }
    })
}

/** Elements of all tensors. A tied head, which the files leave out, counts once, with the embedding. */
function parameters(checkpoint: Checkpoint): number {
  return [...checkpoint.sources.values()].reduce((sum, source) => sum + numel(source.shape), 0)
}

function totals(checkpoint: Checkpoint): Record<string, { tensors: number; bytes: number }> {
  const byDtype: Record<string, { tensors: number; bytes: number }> = {}
  for (const { dtype, byteLength } of checkpoint.sources.values()) {
    const entry = (byDtype[dtype] ??= { tensors: 0, bytes: 0 })
    entry.tensors += 1
    entry.bytes += byteLength
  }
  return byDtype
}

/** What a tensor is for, by its name in the file. */
const KINDS = [
  ['scales', /(?:weight_scale(?:_inv)?|input_scale|activation_scale|[kvq]_scale|output_scale)$/],
  ['embedding', /embed_tokens\.weight$/],
  ['head', /lm_head\.weight$/],
  ['projections', /_proj\.weight$/],
  ['norms', /norm\.weight$/],
  ['biases', /\.bias$/],
  ['other', /(?:)/],
] as const
type Kind = (typeof KINDS)[number][0]

interface KindTotal {
  tensors: number
  bytes: number
  /** What the same elements take in bf16; 0 for scales, which bf16 does not need. */
  bf16Bytes: number
}

export function kindTotals(sources: Iterable<Pick<TensorSource, 'name' | 'shape' | 'byteLength'>>): Partial<Record<Kind, KindTotal>> {
  const byKind: Partial<Record<Kind, KindTotal>> = {}
  for (const { name, shape, byteLength } of sources) {
    const [kind] = KINDS.find(([, pattern]) => pattern.test(name))!
    const entry = (byKind[kind] ??= { tensors: 0, bytes: 0, bf16Bytes: 0 })
    entry.tensors += 1
    entry.bytes += byteLength
    entry.bf16Bytes += kind === 'scales' ? 0 : 2 * numel(shape)
  }
  return byKind
}

function describeKinds(kinds: Partial<Record<Kind, KindTotal>>): string {
  return Object.entries(kinds).map(([kind, { bytes, bf16Bytes }]) => `${kind} ${formatBytes(bytes)}${bytes < bf16Bytes ? ` (${(bytes / bf16Bytes).toFixed(3)} of bf16)` : ''}`).join(', ')
}

function report(config: ModelConfig, checkpoint: Checkpoint): object {
  const { raw: _, ...shown } = config
  return {
    config: shown,
    kind: checkpoint.kind,
    files: checkpoint.shards.map(({ path }) => basename(path)),
    parameters: parameters(checkpoint),
    totals: totals(checkpoint),
    kinds: kindTotals(checkpoint.sources.values()),
    tensors: [...checkpoint.sources.values()].map(({ name, dtype, shape, byteLength, path }) => ({ name, dtype, shape, byteLength, file: basename(path) })),
  }
}

function render(config: ModelConfig, checkpoint: Checkpoint, all: boolean): string {
  const bytes = Object.values(totals(checkpoint)).reduce((sum, each) => sum + each.bytes, 0)
  const facts: [string, string][] = [
    ['model', `${config.modelType}, ${formatCount(parameters(checkpoint))} parameters, ${formatBytes(bytes)}`],
    ['layers', `${config.numHiddenLayers}, ${describeAttention(config)}`],
    ['width', `${config.hiddenSize}, MLP ${config.intermediateSize} ${config.hiddenActivation}`],
    ['heads', `${config.numAttentionHeads} of ${config.headDim}, ${config.numKeyValueHeads} for keys and values`],
    ['vocabulary', `${config.vocabSize}, ${config.tieWordEmbeddings ? 'head tied to the embedding' : 'head of its own'}`],
    ['context', `${config.maxPositionEmbeddings} tokens, rope ${config.rope.full.type}`],
    ['files', `${checkpoint.shards.length}, ${checkpoint.kind}`],
    ['dtypes', Object.entries(totals(checkpoint)).map(([dtype, each]) => `${dtype} ${each.tensors} (${formatBytes(each.bytes)})`).join(', ')],
    ['bytes', describeKinds(kindTotals(checkpoint.sources.values()))],
    ...config.notes.map((note): [string, string] => ['note', note]),
  ]
  const rows = groupTensors([...checkpoint.sources.values()], all).map(({ name, count, dtype, shape, byteLength }) => [name, String(count), dtype, formatShape(shape), formatBytes(byteLength)])
  return `${formatTable(facts)}\n${formatTable([['tensor', 'count', 'dtype', 'shape', 'bytes'], ...rows], [1, 4])}`
}

function describeAttention({ layerTypes, slidingWindow }: ModelConfig): string {
  const sliding = layerTypes.filter((type) => type === 'sliding_attention').length
  return sliding === 0 ? 'full attention' : `${sliding} with a window of ${slidingWindow}, ${layerTypes.length - sliding} full`
}

interface TensorGroup {
  readonly name: string
  count: number
  readonly dtype: string
  readonly shape: TensorSource['shape']
  byteLength: number
}

/** One row a tensor, or one for the same tensor of all layers: `model.layers.*.mlp.up_proj.weight`. */
export function groupTensors(sources: readonly Pick<TensorSource, 'name' | 'dtype' | 'shape' | 'byteLength'>[], all: boolean): TensorGroup[] {
  const groups = new Map<string, TensorGroup>()
  for (const { name, dtype, shape, byteLength } of sources) {
    const shown = all ? name : name.replace(/\.\d+\./, '.*.')
    const key = `${shown} ${dtype} ${formatShape(shape)}`
    const group = groups.get(key)
    if (group === undefined) {
      groups.set(key, { name: shown, count: 1, dtype, shape, byteLength })
    } else {
      group.count += 1
      group.byteLength += byteLength
    }
  }
  return [...groups.values()]
}

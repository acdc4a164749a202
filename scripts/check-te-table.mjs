// docs/from-transformer-engine.md names a test for every row: this sees that each file and each title exists, that no row
// stands without one, and that every name the three example files define has its row.
//   node scripts/check-te-table.mjs
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { root } from './lib/proc.mjs'

const PAGE = 'docs/from-transformer-engine.md'
/** What the example files define, and the options they read; private helpers too. */
const NAMES = [
  'replace_decoder', 'TEGemmaDecoderLayer', 'GemmaModelWrapper', 'GemmaGenerationWrapper', 'TEGemmaForCausalLM', '_padding_to_end',
  '_create_or_fetch_hidden_states_buffer', '_create_or_fetch_inference_params', '_get_generation_buffer', 'setup_and_run_context_phase',
  'generate', 'forward', 'TEGemmaForCausalLMCudaGraphs', 'record', 'record_graph', 'te_rope_emb', 'fp8_recipe', 'set_inference_params',
  'load_te_model', '_load_weights_for_standard_model', '_load_weights_for_fp8_model', '_get_all_layer_prefixes_to_update', 'replace_params',
  'TELlamaDecoderLayer', 'TELlamaForCausalLM', 'from_pretrained_local', 'InferenceParams', 'pre_step', 'make_graphed_callables', 'autocast',
  'quantized_model_init', 'RotaryPositionEmbedding', 'config.fp8', 'config.fuse_qkv_params', 'config.is_paged', 'config.max_seq_length',
  'config.generation_cuda_graphs', 'config.cuda_graphs_static_batch_size', 'config.cuda_graphs_static_max_context_len',
  'config.quantized_model_init', 'config.fp8_model_weights_filename', 'config.weights_cache_dir',
]

/** Titles of a test file, as its source writes them. */
function titles(path) {
  const source = readFileSync(path, 'utf8')
  const found = [...source.matchAll(/\((?:'((?:[^'\\\n]|\\.)*)'|"((?:[^"\\\n]|\\.)*)"|`((?:[^`\\]|\\.)*)`),/g)]
  return new Set(found.map(([, a, b, c]) => (a ?? b ?? c).replaceAll(/\\(.)/g, '$1')))
}

/** Faults of a page's text; `base` is the folder that its links start from. */
export function faultsOf(text, base) {
  const faults = []
  const rows = text.split('\n').filter((line) => line.startsWith('| `'))
  for (const row of rows) {
    const name = row.split('|')[1].trim()
    const references = [...row.matchAll(/\[`[^`]+`\]\(([^)]+\.test\.ts)\)((?:,? “[^”]+”)+)/g)]
    if (references.length === 0) faults.push(`${name}: names no test`)
    for (const [, link, list] of references) {
      const path = resolve(base, link)
      if (!existsSync(path)) {
        faults.push(`${name}: ${link} does not exist`)
        continue
      }
      const known = titles(path)
      for (const [, title] of list.matchAll(/“([^”]+)”/g)) if (!known.has(title)) faults.push(`${name}: ${link} has no test “${title}”`)
    }
  }
  const cells = rows.map((row) => row.split('|')[1])
  for (const name of NAMES) if (!cells.some((cell) => cell.includes(`\`${name}\``))) faults.push(`${name} has no row`)
  return faults
}

if (process.argv[1] === import.meta.filename) {
  const faults = faultsOf(readFileSync(join(root, PAGE), 'utf8'), join(root, dirname(PAGE)))
  for (const fault of faults) process.stdout.write(`${PAGE}: ${fault}\n`)
  process.stdout.write(faults.length === 0 ? 'every row of the table from TransformerEngine has its tests\n' : `${faults.length} faults\n`)
  process.exitCode = faults.length === 0 ? 0 : 1
}

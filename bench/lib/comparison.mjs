// What is compared, and the one table that comes of it. Rows are those of h200.jsonl.

const generate = (model, batch, newTokens, ...more) => ['generate', '--random-weights', model, '--batch', String(batch), '--prompt', '20', '--new-tokens', String(newTokens), ...more]
const prefill = (model, batch, ...more) => ['prefill', '--random-weights', model, '--batch', String(batch), '--prompt', '2048', ...more]

/** Our runs; `section` is the peer's that they stand beside, `job` what both do. */
export const JOBS = [
  { section: 'gemma-7b-generate', job: 'Gemma-7B, 64 x (20 + 492) tokens', unit: 's', how: 'bf16', args: generate('gemma-7b', 64, 492) },
  { section: 'gemma-7b-generate', job: 'Gemma-7B, 64 x (20 + 492) tokens', unit: 's', how: 'FP8', args: generate('gemma-7b', 64, 492, '--fp8') },
  { section: 'gemma-7b-generate', job: 'Gemma-7B, 64 x (20 + 492) tokens', unit: 's', how: 'FP8, FP8 cache', args: generate('gemma-7b', 64, 492, '--fp8', '--kv-dtype', 'fp8') },
  { section: 'llama-3-8b-decode', job: 'Llama-3-8B, one sequence', unit: 'tokens/s', how: 'bf16', args: generate('llama-3-8b', 1, 128) },
  { section: 'llama-3-8b-decode', job: 'Llama-3-8B, one sequence', unit: 'tokens/s', how: 'FP8', args: generate('llama-3-8b', 1, 128, '--fp8') },
  { section: 'llama-3-8b-batch', job: 'Llama-3-8B, 64 x (20 + 492) tokens', unit: 's', how: 'bf16', args: generate('llama-3-8b', 64, 492) },
  { section: 'llama-3-8b-batch', job: 'Llama-3-8B, 64 x (20 + 492) tokens', unit: 's', how: 'FP8', args: generate('llama-3-8b', 64, 492, '--fp8') },
  { section: 'llama-3-8b-prefill', job: 'Llama-3-8B, prefill of 8 x 2048', unit: 'tokens/s', how: 'bf16', args: prefill('llama-3-8b', 8) },
  { section: 'llama-3-8b-prefill', job: 'Llama-3-8B, prefill of 8 x 2048', unit: 'tokens/s', how: 'FP8', args: prefill('llama-3-8b', 8, '--fp8') },
].map((entry) => ({ ...entry, label: `${entry.job}, ${entry.how}` }))

/** Ours in the job's unit, and the same at the floor. */
function figures(row, unit) {
  if (row.bench === 'prefill') return { ours: row.tokensPerS, floor: row.tokensPerS / row.share }
  if (unit === 'tokens/s') return { ours: row.tokensPerS, floor: row.tokensPerS / row.share }
  return { ours: row.seconds, floor: (row.floorStepMs * row.newTokens) / 1e3 }
}

/** One entry a job that has a row: ours, the peer's best way, the floor, and how many times faster ours is. */
export function comparison(rows) {
  return JOBS.flatMap(({ section, job, unit, how, label }) => {
    const row = rows.findLast((each) => each.label === label && (each.bench === 'generate' || each.bench === 'prefill'))
    if (row === undefined) return []
    const { ours, floor } = figures(row, unit)
    const others = rows.filter((each) => each.bench === 'peer' && each.section === section && each.batch === row.batch && each.prompt === row.prompt && each.seconds > 0)
    const best = others.reduce((a, b) => (a === undefined || b.seconds < a.seconds ? b : a), undefined)
    const peer = best === undefined ? null : unit === 's' ? best.seconds : best.tokensPerS
    const times = peer === null ? null : unit === 's' ? peer / ours : ours / peer
    return [{ job, how, unit, ours, peer, peerHow: best?.how ?? null, floor, times, share: unit === 's' ? floor / ours : ours / floor, repeatable: row.repeatable }]
  })
}

const figure = (value, unit) => (value === null ? '' : unit === 's' ? `${value.toFixed(2)} s` : `${Math.round(value).toLocaleString('en-US')} tokens/s`)

/** The table, and a line for each check that ran beside it. */
export function markdown(table, rows) {
  const head = '| Job | Octet | | Hugging Face | times faster | floor | share of the floor |\n|---|---|---:|---:|---:|---:|---:|\n'
  const body = table.map(({ job, how, unit, ours, peer, peerHow, times, floor, share }) => `| ${job} | ${how} | ${figure(ours, unit)} | ${figure(peer, unit)}${peerHow === null ? '' : ` (${peerHow})`} | ${times === null ? '' : times.toFixed(2)} | ${figure(floor, unit)} | ${(100 * share).toFixed(0)}% |\n`)
  return `${head}${body.join('')}\n${checks(rows).map((line) => `- ${line}\n`).join('')}`
}

function checks(rows) {
  const last = (bench) => rows.findLast((row) => row.bench === bench)
  const lines = []
  const verify = last('verify')
  if (verify !== undefined) lines.push(`Contract table: ${verify.passed} passed, ${verify.failed} failed, ${verify.skipped} skipped.`)
  for (const row of rows.filter(({ bench }) => bench === 'agree')) {
    const { model, errorRms, apart, greedy, pass } = row
    lines.push(`${model} against transformers, same weights: RMS error of bf16 logits ${errorRms.ours.toFixed(4)} (transformers' own ${errorRms.transformers.toFixed(4)}), at most ${apart.max.toFixed(3)} apart (tolerance ${apart.tolerance.toFixed(3)}); ${greedy.equal} of ${greedy.steps} greedy tokens equal, ${greedy.unequalDecisive} unequal ones decisive: ${pass ? 'agrees' : 'DOES NOT AGREE'}.`)
  }
  const start = last('start')
  if (start !== undefined) lines.push(`Start: random Llama-3-8B reaches its first token in ${start.seconds.toFixed(1)} s, the process's own start included.`)
  for (const row of rows.filter(({ bench, what }) => bench === 'limits' && what?.startsWith('load from'))) lines.push(`Loading ${(row.bytes / 1e9).toFixed(1)} GB from the page cache${row.fp8 ? ', quantized on the way' : ''}: ${row.seconds.toFixed(2)} s, ${row.GBPerS.toFixed(1)} GB/s.`)
  return lines
}

// Puts the last run of a results file into the docs: the table between the markers of a page, and the picture beside it.
//   node bench/report.mjs bench/results/h200.jsonl docs/benchmarks.md docs/h200.svg
import { readFile, writeFile } from 'node:fs/promises'
import { drawBars } from './lib/bars.mjs'
import { comparison, markdown } from './lib/comparison.mjs'

const BEGIN = '<!-- table: h200 -->'
const END = '<!-- end of table -->'

const [results, page, picture] = process.argv.slice(2)
const all = (await readFile(results, 'utf8')).trim().split('\n').map((line) => JSON.parse(line))
const rows = all.filter(({ run }) => run === all.at(-1).run)
const { commit, gpu, driver, time } = rows.at(-1)
const table = comparison(rows)
const text = await readFile(page, 'utf8')
const [head, tail] = [text.indexOf(BEGIN), text.indexOf(END)]
if (head < 0 || tail < head) throw new Error(`${page} has no ${BEGIN} … ${END}`)
const made = `${BEGIN}\n${gpu}, driver ${driver}, commit ${commit}, ${time.slice(0, 10)}:\n\n${markdown(table, rows)}${END}`
await writeFile(page, text.slice(0, head) + made + text.slice(tail + END.length))
await writeFile(picture, drawBars(table, { gpu, commit }))

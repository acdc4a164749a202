// The comparison as a picture: for each job the bars of ours and the peer's, as multiples of the peer's speed, and a mark
// where the floor stands. Plain SVG, readable on light and dark pages.

const LEFT = 250
const RIGHT = 150
const WIDTH = 920
const BAR = 18
const GAP = 8

const escape = (text) => text.replace(/[&<>]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[c])
const label = (value, unit) => (unit === 's' ? `${value.toFixed(2)} s` : `${Math.round(value).toLocaleString('en-US')} tokens/s`)

/** Jobs in the table's order, each with its peer and our ways. */
function groups(table) {
  const found = new Map()
  for (const row of table) found.set(row.job, [...(found.get(row.job) ?? []), row])
  return [...found].map(([job, ways]) => ({ job, ways }))
}

export function drawBars(table, { gpu, commit }) {
  const list = groups(table.filter(({ peer }) => peer !== null))
  // Speed as a multiple of the peer's: how many times as much work in the same time.
  const floorTimes = ({ unit, peer, floor }) => (unit === 's' ? peer / floor : floor / peer)
  const most = Math.max(1, ...table.filter(({ peer }) => peer !== null).map(floorTimes))
  const x = (times) => LEFT + (times / most) * (WIDTH - LEFT - RIGHT)
  let y = 64
  const parts = []
  for (const { job, ways } of list) {
    parts.push(`<text class="job" x="16" y="${y + 13}">${escape(job)}</text>`)
    y += 22
    const bars = [{ name: `Hugging Face, ${ways[0].peerHow}`, times: 1, value: ways[0].peer, kind: 'peer' }, ...ways.map((way) => ({ name: `Octet, ${way.how}`, times: way.times, value: way.ours, kind: 'ours', floor: floorTimes(way) }))]
    for (const { name, times, value, kind, floor } of bars) {
      parts.push(`<text class="name" x="${LEFT - 10}" y="${y + 13}" text-anchor="end">${escape(name)}</text>`)
      parts.push(`<rect class="${kind}" x="${LEFT}" y="${y}" width="${(x(times) - LEFT).toFixed(1)}" height="${BAR}" rx="2"/>`)
      if (floor !== undefined) parts.push(`<line class="floor" x1="${x(floor).toFixed(1)}" x2="${x(floor).toFixed(1)}" y1="${y - 3}" y2="${y + BAR + 3}"/>`)
      const beside = floor !== undefined && x(floor) < x(times) + 130 ? Math.max(x(times), x(floor)) : x(times)
      parts.push(`<text class="value" x="${(beside + 8).toFixed(1)}" y="${y + 13}">${escape(label(value, ways[0].unit))}${kind === 'ours' ? `, ${times.toFixed(2)}x` : ''}</text>`)
      y += BAR + GAP
    }
    y += 14
  }
  const height = y + 24
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" font-family="system-ui, sans-serif" font-size="13">
<style>
  text { fill: #24292f } .job { font-weight: 600 } .name, .note { fill: #57606a } .value { font-variant-numeric: tabular-nums }
  .ours { fill: #0969da } .peer { fill: #8c959f } .floor { stroke: #cf222e; stroke-width: 2; stroke-dasharray: 4 2 }
  @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .name, .note { fill: #9198a1 } .ours { fill: #4493f8 } .peer { fill: #6e7681 } .floor { stroke: #f85149 } }
</style>
<text x="16" y="26" font-size="16" font-weight="600">Octet beside Hugging Face on one ${escape(gpu || 'GPU')}, random weights</text>
<text class="note" x="16" y="46">Bars: speed as a multiple of Hugging Face's fastest way in the same run. Dashed: the least time that memory and arithmetic allow.</text>
${parts.join('\n')}
<text class="note" x="16" y="${height - 10}">commit ${escape(commit ?? 'unknown')}</text>
</svg>
`
}

/**
 * TransformerEngine's row order of a fused, interleaved QKV weight: for each KV group its query heads, then its key head,
 * then its value head, rows [groups, heads / group + 2, headDim]. Here the rows lie Q|K|V.
 * @returns row i of the interleaved weight is row `result[i]` of Q|K|V
 */
export function interleavedQkvRows(heads: number, kvHeads: number, headDim: number): Int32Array {
  const order = new Int32Array((heads + 2 * kvHeads) * headDim)
  const perGroup = heads / kvHeads
  let row = 0
  const take = (head: number) => {
    for (let d = 0; d < headDim; d++) order[row++] = head * headDim + d
  }
  for (let group = 0; group < kvHeads; group++) {
    for (let j = 0; j < perGroup; j++) take(group * perGroup + j)
    take(heads + group)
    take(heads + kvHeads + group)
  }
  return order
}

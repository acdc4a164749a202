import type { Tensor } from '../tensor.js'
import { Call, I32, type OpOptions } from './call.js'

export interface AdvanceDecodeOptions extends OpOptions {
  /** [N], i32: the token chosen for each row. */
  readonly chosen: Tensor
  /** [N], i32: only rows whose entry equals `group` are touched. */
  readonly groups: Tensor
  /** [N, E], i32: ids that end a row; negative entries end nothing. */
  readonly eos: Tensor
  /** [N], i32, in place: new tokens that a row may still have; 0 or less: the row is idle. */
  readonly remaining: Tensor
  /** [N], i32, in place: input of the next step. */
  readonly tokens: Tensor
  /** [N], i32, in place: cached tokens after the step. */
  readonly kvLens: Tensor
  /** [N], i32, in place: cached tokens before the step. */
  readonly starts: Tensor
  /** [N], i32, in place: where the step's key goes; -1 for a row that has stopped. */
  readonly positions: Tensor
  /** Default 0. */
  readonly group?: number
  /** Input of a row that has stopped. Default 0. */
  readonly pad?: number
  /** [N], i32: the row's new token, or -1 where it was idle. */
  readonly out: Tensor
}

/**
 * The end of a decode step without the host. A live row of the group takes its chosen token: out = chosen, remaining
 * falls by one, the token becomes the next input, and kvLens, starts and positions grow by one. A row whose token is
 * among its eos ids, or whose remaining reaches 0, stops: remaining, kvLens and starts are 0, positions -1, its input
 * `pad`. An idle row gets out = -1.
 *
 * @throws OctetError `SHAPE_MISMATCH`, `DTYPE_MISMATCH`, `INVALID_ARGUMENT`, `DISPOSED`, `NOT_SUPPORTED`.
 */
export function advanceDecode(options: AdvanceDecodeOptions): Tensor {
  const call = new Call('advanceDecode', options)
  const row = (name: 'chosen' | 'groups' | 'remaining' | 'tokens' | 'kvLens' | 'starts' | 'positions' | 'out') => call.input(name, options[name], 'N', I32)
  const chosen = row('chosen')
  const groups = row('groups')
  const eos = call.input('eos', options.eos, 'N E', I32)
  const state = [row('remaining'), row('tokens'), row('kvLens'), row('starts'), row('positions')]
  const out = row('out')
  const group = call.whole('group', options.group ?? 0, 0, 2 ** 31 - 1)
  const pad = call.whole('pad', options.pad ?? 0, 0, 2 ** 31 - 1)
  call.run([chosen, groups, eos, ...state, out], [group, pad])
  return out
}

import { argmax, type Tensor } from '@octet-llm/kernels'
import type { InferenceParams } from '@octet-llm/kv-cache'

import type { CausalLM } from './causal-lm.js'

/** One of the two halves of a generation over a model it does not own; it has no parameters of its own. */
export interface Phase<T> {
  readonly model: CausalLM
  /** @param tokens i32 [T] packed in the row order of `params` after its preStep */
  forward(tokens: Tensor, params: InferenceParams): T
}

/** Prefill: whole prompts, or chunks of them, in; the logits of each row's last token out, f32 [B, V]. */
export function contextPhase(model: CausalLM): Phase<Tensor> {
  return { model, forward: (tokens, params) => model.step(tokens, params, { logits: 'last' }) }
}

/** Decode: one token a row in; the most likely next token of each row out, i32 [B], still on the device. */
export function generationPhase(model: CausalLM): Phase<Tensor> {
  return {
    model,
    forward(tokens, params) {
      using logits = model.step(tokens, params, { logits: 'last' })
      return argmax({ x: logits })
    },
  }
}

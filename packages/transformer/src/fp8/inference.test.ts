import { Float8BlockScaling } from '@octet-llm/fp8-recipe'
import { expect, it } from 'vitest'

import { resolveFp8 } from './inference.js'

it('takes block scaling by its name with float32 scales, and a recipe as it is', () => {
  for (const option of ['block', { recipe: 'block' }]) {
    const { recipe, weights, inputs, staticInputs } = resolveFp8(option, true)!
    expect(recipe).toEqual(new Float8BlockScaling({ useF32Scales: true }))
    expect([weights, inputs, staticInputs]).toEqual([{ granularity: 'block128x128', powerOf2: false, epsilon: 0 }, { granularity: 'block1x128', powerOf2: false, epsilon: 0 }, false])
  }
  expect([new Float8BlockScaling(), 'Float8BlockScaling'].map((option) => [resolveFp8(option, false)!.weights.powerOf2, resolveFp8(option, false)!.inputs.powerOf2])).toEqual([[true, true], [true, true]])
})

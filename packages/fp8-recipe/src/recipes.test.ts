import { describe, expect, it } from 'vitest'
import { OctetError, type ErrorCode } from '@octet-llm/core'
import {
  DelayedScaling,
  Float8BlockScaling,
  Float8CurrentScaling,
  Format,
  formatDType,
  formatMax,
  MXFP8BlockScaling,
  NVFP4BlockScaling,
  parseRecipe,
  quantSpec,
  RECIPE_NAMES,
  recipeFromJSON,
  recipeToJSON,
  type Recipe,
} from './index.js'

function thrown(run: () => unknown, code: ErrorCode): OctetError {
  try {
    run()
  } catch (error) {
    expect(OctetError.is(error, code), String(error)).toBe(true)
    return error as OctetError
  }
  throw new Error(`nothing was thrown, expected ${code}`)
}

const exactScales = { power2Scale: false, amaxEpsilon: 0 }
const power2Scales = { power2Scale: true, amaxEpsilon: 0 }
const split = { useSplitAccumulator: true }

/** TransformerEngine's defaults, field by field. */
const DEFAULTS: readonly [() => Recipe, Record<string, unknown>][] = [
  [
    () => new DelayedScaling(),
    {
      kind: 'delayed', name: 'DelayedScaling', margin: 0, fp8Format: 'HYBRID', amaxHistoryLen: 1024, amaxComputeAlgo: 'max',
      scalingFactorComputeAlgo: null, reduceAmax: true, fp8Dpa: false, fp8Mha: false,
    },
  ],
  [
    () => new Float8CurrentScaling(),
    {
      kind: 'current', name: 'Float8CurrentScaling', usePower2Scales: false, fp8Format: 'HYBRID',
      fp8QuantFwdInp: exactScales, fp8QuantFwdWeight: exactScales, fp8QuantBwdGrad: exactScales,
      fp8GemmFprop: { useSplitAccumulator: false }, fp8GemmDgrad: split, fp8GemmWgrad: split, fp8Dpa: false, fp8Mha: false,
    },
  ],
  [
    () => new Float8BlockScaling(),
    {
      kind: 'block', name: 'Float8BlockScaling', useF32Scales: false, fp8Format: 'E4M3',
      fp8QuantFwdInp: power2Scales, fp8QuantFwdWeight: power2Scales, fp8QuantBwdGrad: power2Scales,
      xBlockScalingDim: 1, wBlockScalingDim: 2, gradBlockScalingDim: 1,
      fp8GemmFprop: split, fp8GemmDgrad: split, fp8GemmWgrad: split, fp8Dpa: false, fp8Mha: false,
    },
  ],
  [() => new MXFP8BlockScaling(), { kind: 'mxfp8', name: 'MXFP8BlockScaling', margin: 0, fp8Format: 'E4M3', fp8Dpa: false, fp8Mha: false }],
]

describe('recipes', () => {
  it.each(DEFAULTS)('defaults are TransformerEngine’s: %s', (make, fields) => {
    const recipe = make()
    expect({ ...recipe }).toEqual(fields)
    expect(Object.isFrozen(recipe)).toBe(true)
    for (const value of Object.values(recipe)) if (typeof value === 'object' && value !== null) expect(Object.isFrozen(value)).toBe(true)
  })

  it('take their fields', () => {
    const delayed = new DelayedScaling({ margin: -3, fp8Format: Format.E4M3, amaxHistoryLen: 1, amaxComputeAlgo: 'most_recent', reduceAmax: false, fp8Dpa: true, fp8Mha: true })
    expect(delayed).toMatchObject({ margin: -3, fp8Format: 'E4M3', amaxHistoryLen: 1, amaxComputeAlgo: 'most_recent', reduceAmax: false, fp8Dpa: true, fp8Mha: true })
    expect(new Float8CurrentScaling({ usePower2Scales: true, fp8QuantFwdWeight: { amaxEpsilon: 1e-4 } })).toMatchObject({
      fp8QuantFwdInp: power2Scales, fp8QuantFwdWeight: { power2Scale: true, amaxEpsilon: 1e-4 }, fp8QuantBwdGrad: power2Scales,
    })
    expect(new Float8BlockScaling({ useF32Scales: true, wBlockScalingDim: 1, xBlockScalingDim: 2 })).toMatchObject({
      fp8QuantFwdInp: exactScales, fp8QuantFwdWeight: exactScales, fp8QuantBwdGrad: exactScales, wBlockScalingDim: 1, xBlockScalingDim: 2,
    })
    expect(new Float8CurrentScaling({ fp8GemmFprop: { useSplitAccumulator: true }, fp8GemmWgrad: { useSplitAccumulator: false } })).toMatchObject({
      fp8GemmFprop: split, fp8GemmDgrad: split, fp8GemmWgrad: { useSplitAccumulator: false },
    })
  })

  it.each<[string, () => unknown]>([
    ['E5M2', () => new DelayedScaling({ fp8Format: Format.E5M2 })],
    ['E5M2', () => new Float8CurrentScaling({ fp8Format: Format.E5M2 })],
    ['E5M2', () => new Float8BlockScaling({ fp8Format: Format.E5M2 })],
    ['E5M2', () => new MXFP8BlockScaling({ fp8Format: Format.E5M2 })],
  ])('refuse pure %s', (_format, make) => {
    expect(thrown(make, 'INVALID_ARGUMENT').message).toContain('two mantissa bits')
  })

  it.each<[string, () => unknown]>([
    ['amaxHistoryLen', () => new DelayedScaling({ amaxHistoryLen: 0 })],
    ['amaxHistoryLen', () => new DelayedScaling({ amaxHistoryLen: 2 ** 21 })],
    ['margin', () => new DelayedScaling({ margin: 0.5 })],
    ['margin', () => new DelayedScaling({ margin: 61 })],
    ['amaxComputeAlgo', () => new DelayedScaling({ amaxComputeAlgo: 'mean' as 'max' })],
    ['scalingFactorComputeAlgo', () => new DelayedScaling({ scalingFactorComputeAlgo: 7 as unknown as null })],
    ['reduceAmax', () => new DelayedScaling({ reduceAmax: 1 as unknown as boolean })],
    ['fp8Format', () => new DelayedScaling({ fp8Format: 'e4m3' as 'E4M3' })],
    ['amaxHistoryLength', () => new DelayedScaling({ amaxHistoryLength: 16 } as object)],
    ['amax_history_len', () => new DelayedScaling({ amax_history_len: 16 } as object)],
    ['power2', () => new Float8CurrentScaling({ fp8QuantFwdInp: { power2: true } as object })],
    ['fp8QuantFwdInp.amaxEpsilon', () => new Float8CurrentScaling({ fp8QuantFwdInp: { amaxEpsilon: -1 } })],
    ['fp8QuantFwdInp.amaxEpsilon', () => new Float8CurrentScaling({ fp8QuantFwdInp: { amaxEpsilon: Infinity } })],
    ['fp8QuantBwdGrad', () => new Float8CurrentScaling({ fp8QuantBwdGrad: 1 as unknown as object })],
    ['fp8GemmFprop', () => new Float8CurrentScaling({ fp8GemmFprop: true as unknown as object })],
    ['xBlockScalingDim', () => new Float8BlockScaling({ xBlockScalingDim: 3 as 2 })],
    ['xBlockScalingDim, wBlockScalingDim, gradBlockScalingDim', () => new Float8BlockScaling({ xBlockScalingDim: 2 })],
    ['xBlockScalingDim, wBlockScalingDim, gradBlockScalingDim', () => new Float8BlockScaling({ gradBlockScalingDim: 2 })],
    ['xBlockScalingDim, wBlockScalingDim, gradBlockScalingDim', () => new Float8BlockScaling({ wBlockScalingDim: 1, xBlockScalingDim: 2, gradBlockScalingDim: 2 })],
    ['fp8GemmDgrad.useSplitAccumulator', () => new Float8BlockScaling({ fp8GemmDgrad: { useSplitAccumulator: false } })],
    ['fp8Dpa', () => new Float8BlockScaling({ fp8Dpa: true })],
    ['fp8Mha', () => new Float8BlockScaling({ fp8Mha: true })],
    ['margin', () => new MXFP8BlockScaling({ margin: NaN })],
  ])('refuse %s', (argument, make) => {
    expect(thrown(make, 'INVALID_ARGUMENT').argument).toBe(argument)
  })

  it('know NVFP4 and say why not', () => {
    for (const make of [() => new NVFP4BlockScaling(), () => parseRecipe('nvfp4'), () => parseRecipe('NVFP4BlockScaling'), () => recipeFromJSON({ recipe: 'NVFP4BlockScaling' })]) {
      expect(thrown(make, 'RECIPE_NOT_SUPPORTED').message).toContain('4-bit')
    }
  })
})

describe('formats', () => {
  it('choose a type for each pass', () => {
    expect([formatDType('HYBRID', 'forward'), formatDType('HYBRID', 'backward')]).toEqual(['e4m3', 'e5m2'])
    expect([formatDType('E4M3', 'forward'), formatDType('E4M3', 'backward')]).toEqual(['e4m3', 'e4m3'])
    expect([formatDType('E5M2', 'forward'), formatDType('E5M2', 'backward')]).toEqual(['e5m2', 'e5m2'])
    expect([formatMax('HYBRID', 'forward'), formatMax('HYBRID', 'backward')]).toEqual([448, 57344])
  })

  it('map a recipe to storage forms', () => {
    expect(quantSpec(new DelayedScaling(), 'weight')).toEqual({ dtype: 'e4m3', granularity: 'tensor' })
    expect(quantSpec(new Float8CurrentScaling(), 'gradOutput')).toEqual({ dtype: 'e5m2', granularity: 'tensor' })
    const block = new Float8BlockScaling()
    expect(quantSpec(block, 'input')).toEqual({ dtype: 'e4m3', granularity: 'block1x128' })
    expect(quantSpec(block, 'weight')).toEqual({ dtype: 'e4m3', granularity: 'block128x128' })
    expect(quantSpec(block, 'gradOutput')).toEqual({ dtype: 'e4m3', granularity: 'block1x128' })
    expect(quantSpec(new Float8BlockScaling({ fp8Format: 'HYBRID', wBlockScalingDim: 1, gradBlockScalingDim: 2 }), 'gradOutput')).toEqual({ dtype: 'e5m2', granularity: 'block128x128' })
    thrown(() => quantSpec(new MXFP8BlockScaling(), 'input'), 'RECIPE_NOT_SUPPORTED')
  })
})

describe('names and JSON', () => {
  it('parse names and classes', () => {
    expect(RECIPE_NAMES).toEqual(['delayed', 'current', 'block', 'mxfp8'])
    for (const name of RECIPE_NAMES) {
      expect(parseRecipe(name).kind).toBe(name)
      expect(parseRecipe(parseRecipe(name).name)).toEqual(parseRecipe(name))
    }
    for (const name of ['', 'Delayed', 'toString', 'constructor', '__proto__']) thrown(() => parseRecipe(name), 'USAGE')
  })

  const varied: readonly Recipe[] = [
    ...DEFAULTS.map(([make]) => make()),
    new DelayedScaling({ margin: 2, fp8Format: 'E4M3', amaxHistoryLen: 16, amaxComputeAlgo: 'most_recent', reduceAmax: false, fp8Dpa: true, fp8Mha: true }),
    new Float8CurrentScaling({ usePower2Scales: true, fp8QuantBwdGrad: { power2Scale: false, amaxEpsilon: 0.5 }, fp8GemmFprop: split }),
    new Float8BlockScaling({ useF32Scales: true, wBlockScalingDim: 1, gradBlockScalingDim: 2 }),
    new MXFP8BlockScaling({ margin: 1, fp8Format: 'HYBRID', fp8Mha: true }),
  ]

  it.each(varied.map((recipe) => [recipe.name, recipe] as const))('%s survives JSON', (_name, recipe) => {
    const text = JSON.stringify(recipeToJSON(recipe))
    const back = recipeFromJSON(JSON.parse(text))
    expect(back).toEqual(recipe)
    expect(back.constructor).toBe(recipe.constructor)
    const json = recipeToJSON(recipe)
    for (const value of Object.values(json)) expect(Object.values(recipe)).not.toContain(typeof value === 'object' ? (value ?? 'null') : undefined)
    expect(Object.keys(json).length).toBe(Object.keys(recipe).length - 1)
  })

  it('fills what is absent and refuses what is not a recipe', () => {
    expect(recipeFromJSON({ recipe: 'DelayedScaling' })).toEqual(new DelayedScaling())
    for (const value of [null, 7, 'DelayedScaling', [], {}, { recipe: 'Nothing' }, { recipe: 'toString' }, { recipe: 4 }]) {
      thrown(() => recipeFromJSON(value), 'INVALID_JSON')
    }
    thrown(() => recipeFromJSON({ recipe: 'DelayedScaling', amaxHistory: 3 }), 'INVALID_ARGUMENT')
    thrown(() => recipeFromJSON({ recipe: 'DelayedScaling', fp8Format: 'E5M2' }), 'INVALID_ARGUMENT')
    thrown(() => recipeFromJSON(JSON.parse('{"recipe":"DelayedScaling","__proto__":{"margin":3}}')), 'INVALID_ARGUMENT')
  })

  it('functions are refused by name', () => {
    expect(thrown(() => recipeToJSON(new DelayedScaling({ amaxComputeAlgo: () => 1 })), 'INVALID_ARGUMENT').argument).toBe('amaxComputeAlgo')
    expect(thrown(() => recipeToJSON(new DelayedScaling({ scalingFactorComputeAlgo: () => 1 })), 'INVALID_ARGUMENT').argument).toBe('scalingFactorComputeAlgo')
  })
})

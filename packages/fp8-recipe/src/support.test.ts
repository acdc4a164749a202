import { describe, expect, it } from 'vitest'
import type { OctetError } from '@octet-llm/core'
import {
  assertRecipeSupport,
  checkFp8BlockScalingSupport,
  checkFp8Support,
  checkMxfp8Support,
  checkNvfp4Support,
  checkRecipeSupport,
  getDefaultFp8Recipe,
  parseRecipe,
  type RecipeCapability,
} from './index.js'

const gpu = (major: number, minor: number, cudaVersion: string | null = '13.0', cublasLtVersion: number | null = 130100): RecipeCapability => ({
  computeCapability: [major, minor], cudaVersion, cublasLtVersion,
})
const CPU: RecipeCapability = { kind: 'cpu', computeCapability: null, cudaVersion: null, cublasLtVersion: null }

/** RecipeCapability, then: FP8, MXFP8, block scaling, default recipe, whether it runs. TransformerEngine's rules. */
const TABLE: readonly [string, RecipeCapability, boolean, boolean, boolean, string, boolean][] = [
  ['V100', gpu(7, 0), false, false, false, 'delayed', false],
  ['A100', gpu(8, 0), false, false, false, 'delayed', false],
  ['L4', gpu(8, 9), true, false, false, 'delayed', true],
  ['L4, CUDA 12.1', gpu(8, 9, '12.1', 120103), true, false, false, 'delayed', true],
  ['L4, CUDA 12.0', gpu(8, 9, '12.0', 120103), false, false, false, 'delayed', false],
  ['L4, old cublasLt', gpu(8, 9, '12.1', 120102), false, false, false, 'delayed', false],
  ['L4, no cublasLt', gpu(8, 9, '12.4', null), false, false, false, 'delayed', false],
  ['L4, no CUDA', gpu(8, 9, null, 130100), false, false, false, 'delayed', false],
  ['H100', gpu(9, 0), true, false, true, 'delayed', true],
  ['H200, CUDA 12.9', gpu(9, 0, '12.9', null), true, false, true, 'delayed', true],
  ['H200, CUDA 12.10', gpu(9, 0, '12.10'), true, false, true, 'delayed', true],
  ['H200, CUDA 12.8', gpu(9, 0, '12.8'), true, false, false, 'delayed', true],
  ['H200, nothing known', gpu(9, 0, null, null), true, false, false, 'delayed', true],
  ['B200', gpu(10, 0), true, true, true, 'mxfp8', true],
  ['B300', gpu(10, 3), true, true, true, 'mxfp8', true],
  ['Thor', gpu(11, 0), true, true, true, 'mxfp8', true],
  ['RTX 5090', gpu(12, 0), true, false, true, 'current', true],
  ['DGX Spark', gpu(12, 1, '13.0.2'), true, false, true, 'current', true],
  ['CPU', CPU, true, false, true, 'delayed', true],
]

describe('support', () => {
  it.each(TABLE)('%s', (_name, capability, fp8, mxfp8, block, kind, runs) => {
    expect(checkFp8Support(capability).supported).toBe(fp8)
    expect(checkMxfp8Support(capability).supported).toBe(mxfp8)
    expect(checkFp8BlockScalingSupport(capability).supported).toBe(block)
    expect(checkNvfp4Support(capability).supported).toBe(false)
    const chosen = getDefaultFp8Recipe(capability)
    expect([chosen.recipe.kind, chosen.supported]).toEqual([kind, runs])
    expect(chosen.recipe).toEqual(parseRecipe(kind))
    expect(checkRecipeSupport(chosen.recipe, capability).supported).toBe(runs)
    for (const check of [checkFp8Support, checkMxfp8Support, checkFp8BlockScalingSupport, checkNvfp4Support, getDefaultFp8Recipe]) {
      // A sentence for a person: some words, no value that leaked.
      expect(check(capability).reason).toMatch(/^\w.{25,}/)
      expect(check(capability).reason).not.toMatch(/undefined|null|NaN|\[object/)
    }
  })

  it('reasons say what is there and what is missing', () => {
    expect(checkFp8Support(gpu(8, 0)).reason).toContain('compute capability 8.9 or higher, and this is compute capability 8.0')
    expect(checkFp8Support(gpu(8, 9, '12.1', 120102)).reason).toContain('120102 was found')
    expect(checkFp8Support(gpu(8, 9, '12.1', null)).reason).toContain('none was found')
    expect(checkFp8BlockScalingSupport(gpu(9, 0, '12.8')).reason).toContain('CUDA 12.9 or higher, and 12.8 was found')
    expect(checkFp8Support(CPU).reason).toContain('emulates')
    expect(checkFp8BlockScalingSupport(CPU).reason).toContain('emulates')
    expect(checkNvfp4Support(gpu(10, 0)).reason).toContain('8-bit values only')
    expect(checkMxfp8Support(gpu(12, 0)).reason).toContain('12.0')
  })

  it('each recipe asks its own check', () => {
    const old = gpu(9, 0, '12.8')
    expect(checkRecipeSupport(parseRecipe('delayed'), old)).toEqual(checkFp8Support(old))
    expect(checkRecipeSupport(parseRecipe('current'), old)).toEqual(checkFp8Support(old))
    expect(checkRecipeSupport(parseRecipe('block'), old)).toEqual(checkFp8BlockScalingSupport(old))
    expect(checkRecipeSupport(parseRecipe('mxfp8'), old)).toEqual(checkMxfp8Support(old))
    expect(() => assertRecipeSupport(parseRecipe('delayed'), old)).not.toThrow()
    const refuse = (recipe: string, capability: RecipeCapability): OctetError => {
      try {
        assertRecipeSupport(parseRecipe(recipe), capability)
      } catch (error) {
        return error as OctetError
      }
      throw new Error('nothing was thrown')
    }
    expect(refuse('mxfp8', old)).toMatchObject({ code: 'RECIPE_NOT_SUPPORTED', hint: 'use DelayedScaling' })
    expect(refuse('delayed', gpu(8, 0))).toMatchObject({ code: 'RECIPE_NOT_SUPPORTED', hint: 'use bf16' })
  })

  it.each<[string, unknown]>([
    ['nothing', undefined],
    ['null', null],
    ['a capability of three numbers', { ...gpu(9, 0), computeCapability: [9, 0, 0] }],
    ['a capability of text', { ...gpu(9, 0), computeCapability: '9.0' }],
    ['a negative capability', { ...gpu(9, 0), computeCapability: [9, -1] }],
    ['no capability', { cudaVersion: '13.0', cublasLtVersion: 1 }],
    ['a CUDA version as number', { ...gpu(9, 0), cudaVersion: 13 }],
    ['a CUDA version without minor', { ...gpu(9, 0), cudaVersion: '13' }],
    ['a fractional cublasLt version', { ...gpu(9, 0), cublasLtVersion: 1.5 }],
  ])('refuses %s', (_name, value) => {
    for (const check of [checkFp8Support, checkMxfp8Support, checkFp8BlockScalingSupport, checkNvfp4Support, getDefaultFp8Recipe]) {
      expect(() => check(value as RecipeCapability)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }) as Error)
    }
  })
})

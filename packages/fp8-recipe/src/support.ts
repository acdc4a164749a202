/** Which recipe runs where, and why. Source of the limits: TransformerEngine, `pytorch/quantization.py`. */
import { OctetError, type DeviceCapability } from '@octet-llm/core'
import { reject } from './fields.js'
import { DelayedScaling, Float8CurrentScaling, MXFP8BlockScaling, type Recipe } from './recipes.js'

/** A device's capability as `device.capability` gives it, or the same three facts written by hand. */
export type RecipeCapability = Omit<DeviceCapability, 'kind'> & { readonly kind?: DeviceCapability['kind'] }

export interface RecipeSupport {
  readonly supported: boolean
  /** One sentence for a user: why, or what is missing. */
  readonly reason: string
}

const EMULATED = 'the CPU emulates FP8: the same bytes as on a GPU, multiplied after de-quantizing, without a gain in speed'

/** DelayedScaling and Float8CurrentScaling: compute capability 9.0, or 8.9 with CUDA and cublasLt 12.1. */
export function checkFp8Support(capability: RecipeCapability): RecipeSupport {
  const { version, cuda, cublasLt } = facts(capability)
  if (version === null) return yes(EMULATED)
  if (version >= 900) return yes(`${gpu(capability)} multiplies FP8 in its tensor cores`)
  if (version < 809) return no(`FP8 needs compute capability 8.9 or higher, and this is ${gpu(capability)}`)
  if (cublasLt < 120_103) return no(`FP8 on ${gpu(capability)} needs cublasLt 12.1.3 or higher, and ${found(capability.cublasLtVersion)}`)
  if (cuda < 12_001) return no(`FP8 on ${gpu(capability)} needs CUDA 12.1 or higher, and ${found(capability.cudaVersion)}`)
  return yes(`${gpu(capability)} multiplies FP8 in its tensor cores, with CUDA ${capability.cudaVersion}`)
}

/** MXFP8BlockScaling: compute capability 10.0 to below 12.0. */
export function checkMxfp8Support(capability: RecipeCapability): RecipeSupport {
  const { version } = facts(capability)
  if (version === null) return no('MXFP8 needs compute capability 10.x, and the CPU does not emulate its blocks of 32')
  if (version >= 1200) return no(`MXFP8 needs compute capability 10.x or 11.x: ${gpu(capability)} lacks it for some matrix layouts`)
  if (version >= 1000) return yes(`${gpu(capability)} scales blocks of 32 values in its tensor cores`)
  return no(`MXFP8 needs compute capability 10.0 or higher, and this is ${gpu(capability)}`)
}

/** Float8BlockScaling: compute capability 9.0 with CUDA 12.9. */
export function checkFp8BlockScalingSupport(capability: RecipeCapability): RecipeSupport {
  const { version, cuda } = facts(capability)
  if (version === null) return yes(EMULATED)
  if (version < 900) return no(`FP8 block scaling needs compute capability 9.0 or higher, and this is ${gpu(capability)}`)
  if (cuda < 12_009) return no(`FP8 block scaling needs CUDA 12.9 or higher, and ${found(capability.cudaVersion)}`)
  return yes(`${gpu(capability)} with CUDA ${capability.cudaVersion} multiplies FP8 blocks with a scale each`)
}

/** NVFP4BlockScaling: never here, whatever the device could do. */
export function checkNvfp4Support(capability: RecipeCapability): RecipeSupport {
  const { version } = facts(capability)
  const device = version !== null && version >= 1000 ? `${gpu(capability)} could run NVFP4, but` : 'NVFP4 needs compute capability 10.0 or higher, and'
  return no(`${device} Octet stores 8-bit values only; use MXFP8BlockScaling or DelayedScaling`)
}

/** The check that a recipe's kind asks for. */
export function checkRecipeSupport(recipe: Recipe, capability: RecipeCapability): RecipeSupport {
  switch (recipe.kind) {
    case 'delayed':
    case 'current':
      return checkFp8Support(capability)
    case 'block':
      return checkFp8BlockScalingSupport(capability)
    case 'mxfp8':
      return checkMxfp8Support(capability)
  }
}

/** @throws OctetError `RECIPE_NOT_SUPPORTED` with the reason, where the device cannot run the recipe. */
export function assertRecipeSupport(recipe: Recipe, capability: RecipeCapability, op = 'autocast'): void {
  const { supported, reason } = checkRecipeSupport(recipe, capability)
  if (supported) return
  const best = getDefaultFp8Recipe(capability)
  throw new OctetError('RECIPE_NOT_SUPPORTED', {
    op,
    argument: 'recipe',
    expected: 'a recipe that this device runs',
    received: `${recipe.name}: ${reason}`,
    hint: best.supported ? `use ${best.recipe.name}` : 'use bf16',
  })
}

export interface DefaultRecipe extends RecipeSupport {
  readonly recipe: Recipe
}

/**
 * TransformerEngine's choice: MXFP8 where supported, else Float8CurrentScaling from compute capability 12.0 on, else
 * DelayedScaling. An H100 or H200 (9.0) gets DelayedScaling, and so does the CPU, which emulates one. Where no FP8 runs the
 * recipe is DelayedScaling all the same, with `supported: false`.
 *
 * @throws OctetError `INVALID_ARGUMENT` when the capability has another shape.
 */
export function getDefaultFp8Recipe(capability: RecipeCapability): DefaultRecipe {
  const mxfp8 = checkMxfp8Support(capability)
  if (mxfp8.supported) return { recipe: new MXFP8BlockScaling(), ...mxfp8 }
  const fp8 = checkFp8Support(capability)
  const { version } = facts(capability)
  if (version !== null && version >= 1200) return { recipe: new Float8CurrentScaling(), supported: fp8.supported, reason: mxfp8.reason }
  return { recipe: new DelayedScaling(), ...fp8 }
}

function yes(reason: string): RecipeSupport {
  return { supported: true, reason }
}

function no(reason: string): RecipeSupport {
  return { supported: false, reason }
}

function gpu(capability: RecipeCapability): string {
  return `compute capability ${capability.computeCapability?.join('.') ?? 'none'}`
}

function found(value: string | number | null): string {
  return value === null ? 'none was found' : `${value} was found`
}

interface Facts {
  /** major × 100 + minor; null on the CPU. */
  readonly version: number | null
  /** major × 1000 + minor, so that 12.10 is above 12.9; 0 when unknown. */
  readonly cuda: number
  /** 0 when unknown. */
  readonly cublasLt: number
}

function facts(capability: RecipeCapability): Facts {
  const op = 'capability'
  if (typeof capability !== 'object' || capability === null) {
    throw reject(op, 'capability', '{computeCapability, cudaVersion, cublasLtVersion}', capability, 'pass device.capability')
  }
  const { computeCapability, cudaVersion, cublasLtVersion } = capability
  if (computeCapability !== null && !(Array.isArray(computeCapability) && computeCapability.length === 2 && computeCapability.every(isVersionPart))) {
    throw reject(op, 'computeCapability', '[major, minor] or null', computeCapability)
  }
  if (cudaVersion !== null && !(typeof cudaVersion === 'string' && /^\d{1,3}\.\d{1,3}(\.\d+)*$/.test(cudaVersion))) {
    throw reject(op, 'cudaVersion', "a version such as '13.0', or null", cudaVersion)
  }
  if (cublasLtVersion !== null && !isVersionPart(cublasLtVersion)) throw reject(op, 'cublasLtVersion', 'a number such as 130100, or null', cublasLtVersion)
  const [cudaMajor, cudaMinor] = (cudaVersion ?? '0.0').split('.').map(Number) as [number, number]
  return {
    version: computeCapability === null ? null : computeCapability[0] * 100 + computeCapability[1],
    cuda: cudaMajor * 1000 + cudaMinor,
    cublasLt: cublasLtVersion ?? 0,
  }
}

function isVersionPart(value: unknown): boolean {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0
}

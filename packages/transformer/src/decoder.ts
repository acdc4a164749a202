import { OctetError, formatShape, numel, type TensorSource, type WeightSink, type WeightSlot } from '@octet-llm/core'
import { Construction, disposeAll, embedding, gatherRows, linear, scatterRows, softcap, Tensor, type Device } from '@octet-llm/kernels'
import { InferenceParams, type KvLayerScales } from '@octet-llm/kv-cache'

import type { CausalLM, CausalLMInfo, ForwardInput, ForwardOutput, InferenceParamsRequest, ModelMemory, StepOptions } from './causal-lm.js'
import type { LayerContext } from './context.js'
import { packInput, type PackedInput } from './forward-input.js'
import { DecoderFp8, type NamedLinear } from './fp8/decoder-fp8.js'
import { checkCalibration, kvScalesOf, type Calibration } from './fp8/calibration.js'
import { quantizedCheckpoint, type QuantizedCheckpoint } from './fp8/export.js'
import type { Fp8Context } from './fp8/context.js'
import type { Fp8Inference } from './fp8/inference.js'
import { Lifetime } from './lifetime.js'
import { Linear } from './linear.js'
import { findWeight, weightStream, type ModuleOptions } from './module.js'
import { RMSNorm, type Norm } from './norm.js'
import { ReferenceLayer } from './reference-layer.js'
import type { RotaryPositionEmbedding, TokenRun } from './rotary-position-embedding.js'
import type { DecoderLayer, TransformerLayer } from './transformer-layer.js'
import { Weight } from './weight.js'
import { weightSink, type SinkOptions } from './weight-sink.js'
import { Workspace } from './workspace.js'

/** A checkpoint tensor and the parameter that holds it; addresses as findWeight takes them. */
export interface WeightMapEntry {
  /** Name in the checkpoint. */
  readonly name: string
  /** Parameter of the model, e.g. `layers.0.self_attention.layernorm_qkv.weight.query`. */
  readonly address: string
  /** May be absent from the checkpoint. */
  readonly optional?: boolean
}

/** What tells one decoder from another, besides its layers. */
export interface DecoderOptions extends ModuleOptions {
  readonly dtype: 'f32' | 'bf16'
  readonly info: CausalLMInfo
  /** Built by the caller, owned by the model. */
  readonly layers: readonly TransformerLayer[]
  /** `te` (default): fused. `reference`: the plain layer of Hugging Face, op by op, on the same weights. */
  readonly decoderLayer?: 'te' | 'reference'
  /** Rotary embedding of each layer; layers may share one. Owned by the model. */
  readonly ropes: readonly RotaryPositionEmbedding[]
  /** Multiplies the embedding (Gemma). Default 1. */
  readonly embeddingScale?: number
  readonly layernormEpsilon: number
  readonly zeroCenteredGamma?: boolean
  readonly castBeforeWeight?: boolean
  /** The head is the embedding table. */
  readonly tieWordEmbeddings: boolean
  /** tanh(x / cap) * cap on the logits (Gemma 2). Default: none. */
  readonly finalLogitSoftcapping?: number
  readonly weightMap: readonly WeightMapEntry[]
}

/**
 * The skeleton all models share: embedding, layers, final norm, head. Tokens run packed, without pads; the head runs on
 * the positions whose logits are asked for. One resident copy of every weight.
 */
export class DecoderForCausalLM implements CausalLM {
  readonly info: CausalLMInfo
  readonly device: Device
  readonly dtype: 'f32' | 'bf16'
  readonly layers: readonly DecoderLayer[]
  readonly tieWordEmbeddings: boolean
  readonly lifetime = new Lifetime()
  readonly #options: DecoderOptions
  readonly #embedding: Weight
  /** Undefined: the embedding table is the head. */
  readonly #head: Linear | undefined
  readonly #linears: readonly NamedLinear[]
  readonly #fp8: DecoderFp8 | undefined
  readonly #norm: Norm
  readonly #ropes: ReadonlySet<RotaryPositionEmbedding>
  readonly #weights: ReadonlyMap<string, Weight>
  readonly #workspace: Workspace
  readonly #owned: { dispose(): void }[] = []
  #calibration: Calibration | undefined
  #warned = false
  #disposal: Promise<void> | undefined

  /** @throws OctetError `INVALID_ARGUMENT`, `OUT_OF_MEMORY` */
  constructor(options: DecoderOptions) {
    using construction = new Construction()
    const { device, info, dtype } = options
    this.#options = options
    this.info = info
    this.device = device
    this.dtype = dtype
    this.tieWordEmbeddings = options.tieWordEmbeddings
    const reference = options.decoderLayer === 'reference'
    this.layers = options.layers.map((layer) => (reference ? new ReferenceLayer(layer) : layer))
    this.#ropes = new Set(options.ropes)
    this.#workspace = new Workspace(device)
    const weightDtype = options.weightDtype ?? dtype
    this.#embedding = new Weight({ device, dtype: weightDtype, shape: [info.vocabSize, info.hiddenSize] })
    const headFp8 = options.fp8?.lmHead === true ? options.fp8 : undefined
    if (!this.tieWordEmbeddings || headFp8 !== undefined) {
      this.#head = new Linear({ device, dtype, weightDtype, inFeatures: info.hiddenSize, outFeatures: info.vocabSize, bias: false, initialize: false, fp8: headFp8 })
    }
    const { layernormEpsilon: eps, zeroCenteredGamma, castBeforeWeight } = options
    this.#norm = new RMSNorm({ device, normalizedShape: info.hiddenSize, eps, zeroCenteredGamma, castBeforeWeight })
    this.#weights = new Map([
      ['embed_tokens.weight', this.#embedding],
      ...this.layers.flatMap((layer, i) => layer.weights().map(([path, w]) => [`layers.${i}.${path}`, w] as [string, Weight])),
      ['norm.weight', this.#norm.weight],
      ...(this.#head === undefined ? [] : [['lm_head.weight', this.#head.weight] as [string, Weight]]),
    ])
    this.#linears = this.#nameLinears()
    this.#fp8 = options.fp8 === undefined ? undefined : new DecoderFp8(options.fp8, this.#linears)
    if (options.initialize !== false) this.#initialize(options.seed ?? 0, options.initStd ?? 0.02)
    construction.complete()
  }

  createInferenceParams(request: InferenceParamsRequest): InferenceParams {
    this.#alive('createInferenceParams')
    const { numLayers, numKvHeads, headDim } = this.info
    const { kvDtype, ...rest } = request
    const dpa = this.#options.fp8?.dpa === true
    const dtype = kvDtype === 'fp8' ? 'e4m3' : (kvDtype ?? (dpa ? 'e4m3' : this.dtype))
    if (dpa && dtype !== 'e4m3') {
      throw new OctetError('INVALID_ARGUMENT', { op: 'createInferenceParams', argument: 'kvDtype', expected: 'e4m3 or nothing, as the recipe’s fp8Dpa wants keys and values in FP8', received: dtype, hint: 'leave kvDtype out, or use a recipe without fp8Dpa' })
    }
    const kvScales = dtype === 'e4m3' ? this.#kvScales() : undefined
    return new InferenceParams({
      ...rest,
      device: this.device,
      numLayers,
      numHeadsKv: numKvHeads,
      headDimK: headDim,
      dtype,
      qkvFormat: 'thd',
      ...(kvScales === undefined ? {} : { kvScales }),
    })
  }

  /**
   * Makes the rotary tables long enough for sequences of `length` tokens, so that no later step has to, and a step that
   * is captured in a graph reads the right ones however long its sequences grow.
   */
  reserve(length: number): void {
    this.#alive('reserve')
    for (const rope of this.#ropes) rope.reserve(length)
  }

  /** Angles that follow a sequence's own length (dynamic RoPE past the trained length, longrope past the original one) are made on the host. */
  prepareCapture(length: number): boolean {
    this.reserve(length)
    return [...this.#ropes].every((rope) => length <= rope.fixedLength)
  }

  step(tokens: Tensor, params: InferenceParams, options: StepOptions & { readonly logits: 'none' }): null
  step(tokens: Tensor, params: InferenceParams, options?: StepOptions & { readonly logits?: 'last' | 'all' }): Tensor
  step(tokens: Tensor, params: InferenceParams, options?: StepOptions): Tensor | null
  step(tokens: Tensor, params: InferenceParams, options: StepOptions = {}): Tensor | null {
    this.#alive('step')
    checkTokens(tokens, params.totalTokens)
    const count = params.totalTokens
    const { cuSeqlensQ, preStepSeqlens } = params.host
    const runs = Array.from({ length: params.batchSize }, (_, r) => ({ begin: preStepSeqlens[r]!, count: cuSeqlensQ[r + 1]! - cuSeqlensQ[r]! }))
    const workspace = options.workspace ?? this.#workspace
    const x = this.#embed(tokens, workspace.get('x', [count, this.info.hiddenSize], this.dtype))
    const contexts = this.#contexts({ workspace, inferenceParams: params, fp8: options.fp8 }, params.active.ropePositions ?? params.active.positions, runs)
    for (const [i, layer] of this.layers.entries()) layer.run(x, contexts[i]!, x)
    const logits = options.logits ?? 'last'
    if (logits === 'none') return null
    // Without any new token there is no row to gather either: the logits of idle rows have no meaning.
    if (count === 0 && logits === 'last') return Tensor.zeros([params.batchSize, this.info.vocabSize], { dtype: 'f32', device: this.device })
    const everyRow = logits === 'all' || runs.every((run) => run.count === 1)
    return this.#logits(everyRow ? x : gatherRows({ x, rows: params.active.lastTokens, out: workspace.get('last', [params.batchSize, this.info.hiddenSize], this.dtype) }), workspace, options.fp8)
  }

  forward(input: ForwardInput & { readonly hiddenStates: true }): ForwardOutput
  forward(input: ForwardInput & { readonly hiddenStates?: false }): Tensor
  forward(input: ForwardInput & { readonly hiddenStates?: boolean }): Tensor | ForwardOutput {
    this.#alive('forward')
    const packed = packInput(this.device, input)
    const workspace = new Workspace(this.device)
    const states: Tensor[] = []
    try {
      const context: LayerContext = { workspace, ranges: packed.ranges, fp8: input.fp8 }
      const contexts = this.#contexts(context, packed.positions, packed.runs)
      const keepAll = input.hiddenStates === true
      let x = this.#embed(packed.tokens, workspace.get('x', [packed.count, this.info.hiddenSize], this.dtype))
      for (const [i, layer] of this.layers.entries()) {
        if (keepAll) states.push(this.#padded(x, packed))
        x = layer.run(x, contexts[i]!, x)
      }
      const normed = this.#padded(this.#norm.forward(x, workspace.get('normed', x.shape, x.dtype)), packed)
      states.push(normed)
      using flat = normed.view([packed.batch * packed.width, this.info.hiddenSize])
      using logits = this.#project(flat, workspace, input.fp8)
      const shaped = logits.view([packed.batch, packed.width, this.info.vocabSize])
      if (keepAll) return { logits: shaped, hiddenStates: states }
      normed.dispose()
      return shaped
    } catch (error) {
      disposeAll(states)
      throw error
    } finally {
      packed.dispose()
      workspace.dispose()
    }
  }

  /** One slot a checkpoint tensor, in file-independent order. */
  slots(): WeightSlot[] {
    return this.#options.weightMap.map(({ name, address, optional }) => {
      const { weight, segment } = findWeight(this.#weights, address)
      const shape = [...weight.shapeOf(segment)]
      return { name, shape, quantizable: shape.length === 2 && (address.startsWith('layers.') || address === 'lm_head.weight'), ...(optional === true ? { optional } : {}) }
    })
  }

  /**
   * Follows an FP8 checkpoint, before anything is loaded: what it holds in FP8 stays as it is, what it left out stays out.
   * Without effect on a model that was not made with `fp8`.
   * @param stored checkpoint names of the weights that it holds in FP8
   */
  layOutFp8(stored: ReadonlySet<string>): void {
    this.#fp8?.layOut(stored)
  }

  /**
   * Uploads what a loader accepts into the slots' parameters, tensor by tensor, quantizing and merging on the way.
   * @throws OctetError `OUT_OF_MEMORY` at once when the weights cannot fit; `CHECKPOINT_MISMATCH` for moments of another model
   */
  sink(options: SinkOptions = {}): WeightSink {
    this.#makeRoomFor(options.adapter?.replacements)
    this.device.checkRoom(this.memory().weightsBytes, { op: 'load', purpose: `the weights of ${this.info.modelType}`, hint: 'load it in FP8, or on another device' })
    const addresses = this.#addresses()
    const linears = new Map(this.#linears.map(({ linear }) => [linear.weight, linear]))
    const { moments } = options
    // The head is not calibrated.
    const momentsOf = new Map(moments === undefined ? [] : this.linears().map(([name, linear]) => [linear, moments.of(name, linear.inFeatures)]))
    return weightSink((slot) => {
      const { weight, segment } = findWeight(this.#weights, addresses.get(slot.name) ?? slot.name)
      const linear = linears.get(weight)
      if (linear === undefined) return { weight, segment }
      return { weight, segment, moments: momentsOf.get(linear), onInputScale: (scale) => this.#fp8?.noteInputScale(linear, scale), onLowRank: (update) => linear.addLowRank(update) }
    }, { dtype: this.dtype, ...options })
  }

  /**
   * Ends a load: settles how activations and the FP8 cache are scaled.
   * @param calibration static scales; those of an FP8 checkpoint otherwise
   * @throws OctetError `CHECKPOINT_MISMATCH` for a calibration of another model, `RECIPE_NOT_CALIBRATED`
   */
  finishLoading(calibration?: Calibration): void {
    const { numLayers, numKvHeads } = this.info
    if (calibration !== undefined) checkCalibration(calibration, this.linears().map(([name]) => name), numLayers)
    const kvScales = kvScalesOf(calibration, numLayers, numKvHeads)
    this.#calibration = calibration
    for (const [i, layer] of this.#options.layers.entries()) layer.selfAttention.core.setKvScales(kvScales?.[i], this.device)
    if (this.tieWordEmbeddings && this.#head !== undefined) this.#head.weight.quantizeFrom(this.#embedding.tensor)
    this.#fp8?.finish(calibration)
  }

  /** The projections that FP8 applies to, by the names of a {@link Calibration}. */
  linears(): readonly (readonly [name: string, linear: Linear])[] {
    return this.#linears.filter(({ name }) => name !== 'lm_head').map(({ name, linear }) => [name, linear])
  }

  /** The model as a compressed-tensors checkpoint. @throws OctetError `INVALID_ARGUMENT` for a model that is not in FP8 */
  quantizedCheckpoint(): QuantizedCheckpoint {
    this.#alive('exportQuantized')
    const { fp8, weightMap } = this.#options
    return quantizedCheckpoint({ fp8, weights: this.#weights, weightMap, linears: this.#linears, calibration: this.#calibration, numLayers: this.info.numLayers })
  }

  /** How the projections are quantized; undefined where they are not. */
  get fp8(): Fp8Inference | undefined {
    return this.#options.fp8
  }

  /** The calibration that the model was loaded with. */
  get calibration(): Calibration | undefined {
    return this.#calibration
  }

  /**
   * The parameter that a checkpoint calls `name`, sharing storage. Owned by the model.
   * @throws OctetError `INVALID_ARGUMENT` for a name that this model has no use for
   */
  parameter(name: string): Tensor {
    const entry = this.#options.weightMap.find((e) => e.name === name)
    if (entry === undefined) throw new OctetError('INVALID_ARGUMENT', { op: 'parameter', argument: 'name', expected: 'a tensor name of a checkpoint of this model', received: name })
    const { weight, segment } = findWeight(this.#weights, entry.address)
    return weight.view(segment)
  }

  /** Parameters by path. */
  get weights(): ReadonlyMap<string, Weight> {
    return this.#weights
  }

  memory(): ModelMemory {
    const sum = (sizes: Iterable<number>) => [...sizes].reduce((total, n) => total + n, 0)
    return {
      weightsBytes: sum([...new Set(this.#weights.values())].map((w) => w.byteLength)) + sum(this.#linears.map(({ linear }) => linear.lowRankBytes)),
      tablesBytes: sum([...this.#ropes].map((rope) => rope.byteLength)),
      workspaceBytes: this.#workspace.byteLength,
    }
  }

  /**
   * Ends generations of this model that run, with `DISPOSED`, and waits for them and for enqueued work; then frees weights,
   * tables and activations. Idempotent; never from within a callback of a generation that waits for it.
   * @throws OctetError `TENSOR_IN_GRAPH` while a graph of the caller holds weights: what no graph holds is free by then, and
   *   a call after the graph's dispose() frees the rest
   */
  dispose(): Promise<void> {
    this.#disposal ??= this.#release().catch((error: unknown) => {
      this.#disposal = undefined
      throw error
    })
    return this.#disposal
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose()
  }

  /** What works on this model and goes with it, before its weights do. */
  protected own<T extends { dispose(): void }>(owner: T): T {
    this.#owned.push(owner)
    return owner
  }

  /** Parameter of each checkpoint name. */
  #addresses(): Map<string, string> {
    return new Map(this.#options.weightMap.map((entry) => [entry.name, entry.address]))
  }

  /** Tensors that an adapter puts in the checkpoint's place keep their values: float32 activations are no reason to round them. */
  #makeRoomFor(replacements: ReadonlyMap<string, TensorSource> = new Map()): void {
    if (this.dtype !== 'f32') return
    const addresses = this.#addresses()
    for (const [name, { dtype }] of replacements) {
      const { weight } = findWeight(this.#weights, addresses.get(name) ?? name)
      if (weight.rule === undefined && weight.dtype !== dtype) weight.widen()
    }
  }

  #initialize(seed: number, std: number): void {
    this.#embedding.randomize(seed, std, [weightStream(0, 0)])
    if (!this.tieWordEmbeddings) this.#head!.weight.randomize(seed, std, [weightStream(0, 1)])
    this.#norm.initialize()
    this.finishLoading()
  }

  #embed(ids: Tensor, out: Tensor): Tensor {
    return embedding({ ids, table: this.#embedding.tensor, scale: this.#options.embeddingScale ?? 1, out })
  }

  /** A context for each layer: they differ in their rotary tables only. */
  #contexts(base: LayerContext, positions: Tensor, runs: readonly TokenRun[]): LayerContext[] {
    const byRope = new Map<RotaryPositionEmbedding, LayerContext>()
    for (const rope of this.#ropes) byRope.set(rope, { ...base, rope: rope.forTokens(positions, runs) })
    return this.#options.ropes.map((rope) => byRope.get(rope)!)
  }

  #logits(x: Tensor, workspace: Workspace, fp8: Fp8Context | undefined): Tensor {
    return this.#project(this.#norm.forward(x, workspace.get('normed', x.shape, x.dtype)), workspace, fp8)
  }

  /** @returns f32 [N, V], the caller's */
  #project(x: Tensor, workspace: Workspace, fp8: Fp8Context | undefined): Tensor {
    const out = Tensor.empty([x.shape[0]!, this.info.vocabSize], { dtype: 'f32', device: this.device })
    try {
      if (this.#head === undefined) linear({ x, weight: this.#embedding.tensor, out })
      // As in TransformerEngine's models the head is no part of an autocast; it is in FP8 where its weight is.
      else this.#head.run(x, { out, workspace, fp8: this.#head.weight.rule === undefined ? undefined : fp8 })
      const cap = this.#options.finalLogitSoftcapping
      return cap === undefined ? out : softcap({ x: out, cap, out })
    } catch (error) {
      out.dispose()
      throw error
    }
  }

  /** Packed tokens as [B, S, hidden], pads zero; a new tensor. */
  #padded(x: Tensor, packed: PackedInput): Tensor {
    const shape = [packed.batch, packed.width, this.info.hiddenSize]
    const full = Tensor.zeros(shape, { dtype: x.dtype, device: this.device })
    const flat = full.view([packed.batch * packed.width, this.info.hiddenSize])
    scatterRows({ x, rows: packed.index, out: flat })
    flat.dispose()
    return full
  }

  #nameLinears(): NamedLinear[] {
    const names = new Map(this.#options.weightMap.map(({ name, address }) => [address, name]))
    const slotsOf = (path: string, { segments }: Weight) => (segments.length === 0 ? [path] : segments.map((s) => `${path}.${s.name}`)).map((address) => names.get(address) ?? address)
    const paths = new Map([...this.#weights].map(([path, weight]) => [weight, path]))
    const parts = this.layers.flatMap((layer, i) => layer.linears().map(([path, linear]) => [`layers.${i}.${path}`, linear] as const))
    const head = this.#head === undefined ? [] : [['lm_head', this.#head] as const]
    return [...parts, ...head].map(([name, linear]) => ({ name, linear, slots: slotsOf(paths.get(linear.weight)!, linear.weight) }))
  }

  #kvScales(): KvLayerScales[] | undefined {
    const scales = kvScalesOf(this.#calibration, this.info.numLayers, this.info.numKvHeads)
    if (scales === undefined && !this.#warned) {
      this.#warned = true
      process.emitWarning('the FP8 KV cache has no calibrated scales and stores keys and values with scale 1; make them with `octet quantize --calibrate FILE`', { code: 'OCTET_KV_UNCALIBRATED' })
    }
    return scales
  }

  async #release(): Promise<void> {
    await this.lifetime.end(new OctetError('DISPOSED', { op: 'generate', message: '[generate] the model was disposed; load it again' }))
    disposeAll([...this.#owned, ...this.layers, ...this.#ropes, this.#norm, this.#embedding, this.#head, this.#workspace])
    if (!this.device.disposed) await this.device.synchronize()
  }

  #alive(op: string): void {
    if (this.lifetime.signal.aborted) throw new OctetError('DISPOSED', { op, message: `[${op}] the model was disposed; load it again` })
  }
}

function checkTokens(tokens: Tensor, expected: number): void {
  if (tokens.dtype !== 'i32') throw new OctetError('DTYPE_MISMATCH', { op: 'step', argument: 'tokens', expected: 'i32', received: tokens.dtype })
  if (tokens.shape.length === 1 && numel(tokens.shape) === expected) return
  throw new OctetError('SHAPE_MISMATCH', { op: 'step', argument: 'tokens', expected: `[${expected}] as preStep announced`, received: formatShape(tokens.shape) })
}

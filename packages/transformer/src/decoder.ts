import { OctetError, type WeightSink, type WeightSlot } from '@octet-llm/core'
import { Construction, disposeAll, gatherRows, Tensor, type Device } from '@octet-llm/kernels'
import { InferenceParams, type KvLayerScales } from '@octet-llm/kv-cache'

import type { CausalLM, CausalLMInfo, ForwardInput, ForwardOutput, InferenceParamsRequest, ModelMemory, StepOptions } from './causal-lm.js'
import type { LayerContext } from './context.js'
import type { DecoderOptions } from './decoder-options.js'
import { DecoderRopes } from './decoder-ropes.js'
import { DecoderWeights } from './decoder-weights.js'
import { checkStepTokens, packInput, unpack } from './forward-input.js'
import { DecoderFp8 } from './fp8/decoder-fp8.js'
import { checkCalibration, kvScalesOf, type Calibration } from './fp8/calibration.js'
import { quantizedCheckpoint, type QuantizedCheckpoint } from './fp8/export.js'
import type { Fp8Context } from './fp8/context.js'
import type { Fp8Inference } from './fp8/inference.js'
import { Lifetime } from './lifetime.js'
import type { Linear } from './linear.js'
import { RMSNorm, type Norm } from './norm.js'
import { ReferenceLayer } from './reference-layer.js'
import type { DecoderLayer } from './transformer-layer.js'
import { Vocabulary } from './vocabulary.js'
import type { Weight } from './weight.js'
import type { SinkOptions } from './weight-sink.js'
import { Workspace } from './workspace.js'

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
  readonly #vocabulary: Vocabulary
  readonly #weights: DecoderWeights
  readonly #fp8: DecoderFp8 | undefined
  readonly #norm: Norm
  readonly #ropes: DecoderRopes
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
    this.#ropes = new DecoderRopes(options.ropes)
    this.#workspace = new Workspace(device)
    this.#vocabulary = new Vocabulary(options)
    const { layernormEpsilon: eps, zeroCenteredGamma, castBeforeWeight } = options
    this.#norm = new RMSNorm({ device, normalizedShape: info.hiddenSize, eps, zeroCenteredGamma, castBeforeWeight })
    this.#weights = new DecoderWeights({ layers: this.layers, vocabulary: this.#vocabulary, norm: this.#norm, weightMap: options.weightMap, dtype })
    this.#fp8 = options.fp8 === undefined ? undefined : new DecoderFp8(options.fp8, this.#weights.linears)
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
    this.#ropes.reserve(length)
  }

  /** Angles that follow a sequence's own length (dynamic RoPE past the trained length, longrope past the original one) are made on the host. */
  prepareCapture(length: number): boolean {
    this.reserve(length)
    return this.#ropes.areFixed(length)
  }

  step(tokens: Tensor, params: InferenceParams, options: StepOptions & { readonly logits: 'none' }): null
  step(tokens: Tensor, params: InferenceParams, options?: StepOptions & { readonly logits?: 'last' | 'all' }): Tensor
  step(tokens: Tensor, params: InferenceParams, options?: StepOptions): Tensor | null
  step(tokens: Tensor, params: InferenceParams, options: StepOptions = {}): Tensor | null {
    this.#alive('step')
    checkStepTokens(tokens, params.totalTokens)
    const count = params.totalTokens
    const { cuSeqlensQ, preStepSeqlens } = params.host
    const runs = Array.from({ length: params.batchSize }, (_, r) => ({ begin: preStepSeqlens[r]!, count: cuSeqlensQ[r + 1]! - cuSeqlensQ[r]! }))
    const workspace = options.workspace ?? this.#workspace
    const x = this.#vocabulary.embed(tokens, workspace.get('x', [count, this.info.hiddenSize], this.dtype))
    const contexts = this.#ropes.contexts({ workspace, inferenceParams: params, fp8: options.fp8 }, params.active.ropePositions ?? params.active.positions, runs)
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
      const contexts = this.#ropes.contexts(context, packed.positions, packed.runs)
      const keepAll = input.hiddenStates === true
      let x = this.#vocabulary.embed(packed.tokens, workspace.get('x', [packed.count, this.info.hiddenSize], this.dtype))
      for (const [i, layer] of this.layers.entries()) {
        if (keepAll) states.push(unpack(x, packed))
        x = layer.run(x, contexts[i]!, x)
      }
      const normed = unpack(this.#norm.forward(x, workspace.get('normed', x.shape, x.dtype)), packed)
      states.push(normed)
      using flat = normed.view([packed.batch * packed.width, this.info.hiddenSize])
      using logits = this.#vocabulary.project(flat, workspace, input.fp8)
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
    return this.#weights.slots()
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
    this.#weights.makeRoomFor(options.adapter?.replacements ?? new Map())
    this.device.checkRoom(this.memory().weightsBytes, { op: 'load', purpose: `the weights of ${this.info.modelType}`, hint: 'load it in FP8, or on another device' })
    return this.#weights.sink(options, (linear, scale) => this.#fp8?.noteInputScale(linear, scale))
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
    this.#vocabulary.finishLoading()
    this.#fp8?.finish(calibration)
  }

  /** The projections that FP8 applies to, by the names of a {@link Calibration}. */
  linears(): readonly (readonly [name: string, linear: Linear])[] {
    return this.#weights.calibrated().map(({ name, linear }) => [name, linear])
  }

  /** The model as a compressed-tensors checkpoint. @throws OctetError `INVALID_ARGUMENT` for a model that is not in FP8 */
  quantizedCheckpoint(): QuantizedCheckpoint {
    this.#alive('exportQuantized')
    const { byPath: weights, map: weightMap, linears } = this.#weights
    return quantizedCheckpoint({ fp8: this.#options.fp8, weights, weightMap, linears, calibration: this.#calibration, numLayers: this.info.numLayers })
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
    return this.#weights.parameter(name)
  }

  /** Parameters by path. */
  get weights(): ReadonlyMap<string, Weight> {
    return this.#weights.byPath
  }

  memory(): ModelMemory {
    return {
      weightsBytes: this.#weights.byteLength,
      tablesBytes: this.#ropes.byteLength,
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

  #initialize(seed: number, std: number): void {
    this.#vocabulary.initialize(seed, std)
    this.#norm.initialize()
    this.finishLoading()
  }

  #logits(x: Tensor, workspace: Workspace, fp8: Fp8Context | undefined): Tensor {
    return this.#vocabulary.project(this.#norm.forward(x, workspace.get('normed', x.shape, x.dtype)), workspace, fp8)
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
    disposeAll([...this.#owned, ...this.layers, this.#ropes, this.#norm, this.#vocabulary, this.#workspace])
    if (!this.device.disposed) await this.device.synchronize()
  }

  #alive(op: string): void {
    if (this.lifetime.signal.aborted) throw new OctetError('DISPOSED', { op, message: `[${op}] the model was disposed; load it again` })
  }
}

import type { Tensor } from '@octet-llm/kernels'
import type { DeviceSampling } from '../processors/build.js'
import type { DrawPosition } from './task.js'

/** What the engine asks of a device beside the model itself. Each call enqueues; a promise resolves with host values. */
export interface DeviceOps {
  /** i32 [T] on the device. */
  upload(values: Int32Array): Tensor
  /** Rows of x [N, V] as a new tensor [rows.length, V]. */
  gather(x: Tensor, rows: Int32Array): Tensor
  /** log(softmax) of each row of x [N, V], f32. */
  logSoftmax(x: Tensor): Tensor
  /** Best index of each row of x [N, V]. */
  argmax(x: Tensor): Promise<Int32Array>
  /** A draw for each row of x [N, V]. */
  sample(x: Tensor, sampling: DeviceSampling, seed: number, draws: readonly DrawPosition[]): Promise<Int32Array>
}

/** An owner of native or file resources. `dispose` is idempotent. */
export interface Disposable {
  dispose(): void
  [Symbol.dispose](): void
}

/** An owner whose release waits for work in flight. `dispose` is idempotent. */
export interface AsyncDisposable {
  dispose(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

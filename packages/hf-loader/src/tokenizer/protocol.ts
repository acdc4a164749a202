/** What crosses the pipe between a tokenizer handle and its sandbox process. */
import type { ErrorCode, SpecialTokens } from '@octet-llm/core'
import type { TokenTable } from './token-table.js'

export type SandboxRequest =
  | { readonly kind: 'load'; readonly dir: string }
  | { readonly kind: 'encode'; readonly text: string; readonly addSpecialTokens: boolean }
  | { readonly kind: 'template'; readonly variables: Readonly<Record<string, unknown>> }

/** The answer to `load`; `encode` answers ids, `template` a text. */
export interface LoadAnswer {
  readonly special: SpecialTokens
  readonly hasChatTemplate: boolean
  readonly table: TokenTable
}

/** An OctetError on the wire: its fields, so that the handle's side can build one with a stack of its own. */
export interface WireError {
  readonly code: ErrorCode
  readonly message: string
  readonly op?: string
  readonly argument?: string
  readonly expected?: string
  readonly received?: string
  readonly hint?: string
}

export type SandboxReply =
  | { readonly value: unknown }
  | { readonly error: WireError }
  /** The thread ended: past its heap limit, or by a fault of ours. */
  | { readonly fatal: 'heap' | 'crash'; readonly reason: string }

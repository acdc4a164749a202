/**
 * Entry of the sandbox process; nothing imports it. Its main thread passes messages on and ends the process when the
 * pipe to the handle closes, even while the worker thread hangs in a regular expression. The worker thread, under a
 * heap limit, does the work. See docs/adr/0005-tokenizers-run-in-a-child-process.md for why a process stands around the thread.
 */
import { fileURLToPath } from 'node:url'
import { isMainThread, parentPort, Worker } from 'node:worker_threads'
import { OctetError } from '@octet-llm/core'
import { Engine } from './engine.js'
import type { SandboxReply, SandboxRequest, WireError } from './protocol.js'

if (isMainThread) guard(Number(process.argv[2]))
else serve()

function guard(heapLimitMb: number): void {
  const thread = new Worker(fileURLToPath(import.meta.url), { resourceLimits: { maxOldGenerationSizeMb: heapLimitMb } })
  const reply = (message: SandboxReply): void => {
    process.send?.(message)
  }
  thread.on('message', reply)
  thread.on('error', (error: Error & { code?: string }) => {
    reply({ fatal: error.code === 'ERR_WORKER_OUT_OF_MEMORY' ? 'heap' : 'crash', reason: error.message })
  })
  process.on('message', (message) => thread.postMessage(message))
  // SIGKILL: an orderly exit would wait for the thread.
  const end = (): void => void process.kill(process.pid, 'SIGKILL')
  process.on('disconnect', end)
  // Whoever started this process may have died while its modules were loaded: nobody would say so again.
  if (!process.connected) end()
}

function serve(): void {
  const port = parentPort
  if (port === null) return
  let engine: Engine | null = null
  const answer = (request: SandboxRequest): unknown => {
    if (request.kind === 'load') {
      engine = Engine.load(request.dir)
      return engine.answer
    }
    if (engine === null) throw new OctetError('INTERNAL', { message: 'the tokenizer sandbox was asked before it was loaded' })
    return request.kind === 'encode' ? engine.encode(request.text, request.addSpecialTokens) : engine.render(request.variables)
  }
  port.on('message', (request: SandboxRequest) => {
    let reply: SandboxReply
    try {
      reply = { value: answer(request) }
    } catch (error) {
      reply = { error: toWire(error) }
    }
    port.postMessage(reply)
  })
}

function toWire(error: unknown): WireError {
  if (!OctetError.is(error)) return { code: 'INTERNAL', message: error instanceof Error ? error.message : String(error) }
  const { code, message, op, argument, expected, received, hint } = error
  return {
    code,
    message,
    ...(op === undefined ? {} : { op }),
    ...(argument === undefined ? {} : { argument }),
    ...(expected === undefined ? {} : { expected }),
    ...(received === undefined ? {} : { received }),
    ...(hint === undefined ? {} : { hint }),
  }
}

// Opens one file in a process of its own and reports how much memory that took at its peak, over what the process had
// when its modules were loaded.
import { existsSync, readFileSync } from 'node:fs'
import { openCheckpoint } from '../../dist/checkpoint/index.js'
import { readConfig, readGenerationConfig } from '../../dist/config/index.js'
import { openLoraAdapter } from '../../dist/lora/index.js'
import { openSafetensors } from '../../dist/safetensors/index.js'
import { openTorchBin } from '../../dist/torch-bin/index.js'

const OPENERS = { openCheckpoint, openSafetensors, openTorchBin, openLoraAdapter, readConfig, readGenerationConfig }
const [opener, path] = process.argv.slice(2)

/** High-water mark of this process: Linux counts the parent's memory into getrusage's. */
function peakBytes() {
  if (!existsSync('/proc/self/status')) return process.resourceUsage().maxRSS * 1024
  return Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'latin1'))[1]) * 1024
}

const idle = peakBytes()
let outcome = 'opened'
try {
  const opened = await OPENERS[opener](path)
  await opened.close?.()
} catch (error) {
  outcome = error.code ?? String(error)
}
process.send({ outcome, peakBytes: peakBytes() - idle })

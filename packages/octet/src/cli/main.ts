import { Command, Option } from 'commander'
import { version } from '../version.js'
import { addBench } from './commands/bench.js'
import { addBuildNative } from './commands/build-native.js'
import { addChat } from './commands/chat.js'
import { addDoctor } from './commands/doctor.js'
import { addGenerate } from './commands/generate.js'
import { addInspect } from './commands/inspect.js'
import { addLogits } from './commands/logits.js'
import { addPull } from './commands/pull.js'
import { addQuantize } from './commands/quantize.js'
import { addVerify } from './commands/verify.js'
import type { Context } from './context.js'
import { describeFailure, reportFailure } from './failure.js'
import { createOutput } from './output.js'

/** Adds one command to the program. */
export type AddCommand = (program: Command, context: Context) => void

const COMMANDS: readonly AddCommand[] = [addGenerate, addLogits, addChat, addInspect, addPull, addQuantize, addVerify, addDoctor, addBench, addBuildNative]

function createProgram(context: Context): Command {
  const program = new Command('octet')
    .description('Runs Hugging Face Gemma and Llama checkpoints.')
    .version(version, '-V, --version', 'print the version')
    .helpOption('-h, --help', 'show help')
    .helpCommand(false)
    .showSuggestionAfterError(true)
    // Errors are reported once, by main.
    .configureOutput({ writeErr: () => {} })
    .exitOverride()
  for (const add of COMMANDS) add(program, context)
  for (const command of allCommands(program)) {
    command.exitOverride().configureOutput({ writeErr: () => {} }).allowExcessArguments(command.commands.length > 0)
    command.addOption(new Option('--json', 'print one JSON object')).addOption(new Option('--debug', 'print the stack of an error'))
    if (command.commands.length > 0) command.action(() => refuseGroup(command))
  }
  return program
}

/** A command that only holds others was called by itself, or with a name that it does not hold. */
function refuseGroup(command: Command): never {
  const names = command.commands.map((each) => each.name()).join(', ')
  const [given] = command.args
  return command.error(given === undefined ? `octet ${command.name()} needs one of: ${names}` : `octet ${command.name()} has no '${given}', only: ${names}`)
}

function allCommands(command: Command): Command[] {
  return command.commands.flatMap((each) => [each, ...allCommands(each)])
}

/** SIGINT and SIGTERM abort the command; a second one ends the process at once. */
function abortOnSignals(): { signal: AbortSignal; release: () => void } {
  const controller = new AbortController()
  const stop = (): void => {
    if (controller.signal.aborted) process.exit(130)
    controller.abort(new Error('interrupted'))
  }
  process.on('SIGINT', stop).on('SIGTERM', stop)
  return { signal: controller.signal, release: () => process.off('SIGINT', stop).off('SIGTERM', stop) }
}

/** Warnings of our own as one line, instead of Node's two with a process number; those of others as Node prints them. */
function showWarnings(): void {
  const others = process.listeners('warning')
  process.removeAllListeners('warning').on('warning', (warning: Error & { code?: string }) => {
    if (warning.code?.startsWith('OCTET_') === true) process.stderr.write(`octet: ${warning.message}\n`)
    else for (const listener of others) listener(warning)
  })
}

/**
 * Runs the command line.
 * @param args what follows the program's name
 * @returns the exit status: 0, 1 failure, 2 usage, 130 interrupted
 */
export async function main(args: readonly string[]): Promise<number> {
  const json = args.includes('--json')
  const debug = args.includes('--debug')
  const { signal, release } = abortOnSignals()
  const output = createOutput(process.stdout, process.stderr, json)
  showWarnings()
  const context: Context = { output, signal, json, stdin: process.stdin, stderr: process.stderr }
  try {
    const program = createProgram(context)
    if (args.length === 0) {
      program.outputHelp()
      return 0
    }
    await program.parseAsync([...args], { from: 'user' })
    return 0
  } catch (error) {
    const failure = describeFailure(error, signal.aborted)
    reportFailure(failure, { json, debug })
    return failure.status
  } finally {
    release()
  }
}

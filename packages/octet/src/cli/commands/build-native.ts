import { type Command, Option } from 'commander'
import { buildNative } from '@octet-llm/kernels/build-native'
import type { Context } from '../context.js'
import { wholeNumber } from '../values.js'

export function addBuildNative(program: Command, { output, json, stderr }: Context): void {
  program
    .command('build-native')
    .description('compile the native kernels from the sources in the package')
    .addOption(new Option('--jobs <N>', 'compiler processes at once').argParser(wholeNumber(1, 1024)))
    .action(async ({ jobs }: { jobs?: number }) => {
      const path = await buildNative({ jobs, log: (text) => { if (!json) stderr.write(text) } })
      if (json) await output.json({ path })
      else await output.write(`${path}\n`)
    })
}

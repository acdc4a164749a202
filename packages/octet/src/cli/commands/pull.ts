import { type Command, Option } from 'commander'
import { pull } from '@octet-llm/hf-loader/hub'
import { askBeforePull } from '../ask.js'
import type { Context } from '../context.js'
import { createProgress } from '../progress.js'

interface PullFlags {
  readonly revision?: string
  readonly yes?: boolean
}

export function addPull(program: Command, context: Context): void {
  program
    .command('pull')
    .description('download a checkpoint from the hub into its cache')
    .argument('<HUB_ID>', 'owner/name')
    .addOption(new Option('--revision <NAME>', 'branch, tag or commit'))
    .addOption(new Option('--yes', 'download without asking'))
    .action(async (id: string, flags: PullFlags) => {
      const progress = createProgress(context.stderr, context.output.interactive)
      try {
        const { dir, commit, totalBytes, downloadBytes } = await pull(id, {
          revision: flags.revision,
          signal: context.signal,
          confirm: askBeforePull(flags.yes === true, context),
          onProgress: ({ doneBytes, totalBytes: all }) => progress.update('downloading', doneBytes, all),
        })
        progress.end()
        if (context.json) await context.output.json({ id, dir, commit, totalBytes, downloadBytes })
        else await context.output.write(`${dir}\n`)
      } finally {
        progress.end()
      }
    })
}

import { type Command, Option } from 'commander'
import { pullCheckpoint } from '../../hub.js'
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
      const progress = createProgress('downloading', context.stderr, context.output.interactive)
      try {
        const folder = await pullCheckpoint(id, {
          revision: flags.revision,
          signal: context.signal,
          confirm: askBeforePull(flags.yes === true, context),
          onProgress: ({ doneBytes, totalBytes }) => progress.update(doneBytes, totalBytes),
        })
        progress.end()
        if (context.json) await context.output.json({ id, folder })
        else await context.output.write(`${folder}\n`)
      } finally {
        progress.end()
      }
    })
}

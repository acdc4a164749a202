import { type Command, Option } from 'commander'
import { RANDOM_MODELS } from '../random-model.js'
import { wholeNumber } from './values.js'

/** Flags of a model without a checkpoint. */
export interface RandomFlags {
  readonly randomWeights?: string
  readonly weightsSeed?: number
}

/** `--random-weights` in the place of `--model`, which is then not required. */
export function addRandomFlags(command: Command): Command {
  command.options.find((option) => option.long === '--model')?.makeOptionMandatory(false)
  return command
    .addOption(new Option('--random-weights <CONFIG>', `instead of --model: random weights of ${Object.keys(RANDOM_MODELS).join(', ')}, or of a config.json`).conflicts(['model', 'calibration', 'adapter', 'revision']))
    .addOption(new Option('--weights-seed <N>', 'seed of random weights (default: 0)').argParser(wholeNumber(0)))
}

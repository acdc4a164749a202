import { Command, CommanderError } from 'commander'
import { describe, expect, it } from 'vitest'
import { GENERATION_FIELDS } from '@octet-llm/generation'
import { addGenerationFlags, kebabCase, readGenerationFlags } from './generation-flags.js'

function parse(...args: string[]): object {
  const command = addGenerationFlags(new Command('test')).exitOverride().configureOutput({ writeErr: () => {} })
  command.parse(args, { from: 'user' })
  return readGenerationFlags(command.opts())
}

describe('generation flags', () => {
  it('sets nothing that was not given', () => {
    expect(parse()).toEqual({})
  })

  it('reads each kind', () => {
    expect(parse('--max-new-tokens', '64', '--temperature', '0.7', '--do-sample', '--eos-token-id', '1,107', '--stop-strings', 'a,b')).toEqual({
      maxNewTokens: 64, temperature: 0.7, doSample: true, eosTokenId: [1, 107], stopStrings: ['a', 'b'],
    })
    expect(parse('--no-do-sample', '--early-stopping', 'never', '--bad-words-ids', '[[5,6],[7]]', '--length-penalty', '-1')).toEqual({
      doSample: false, earlyStopping: 'never', badWordsIds: [[5, 6], [7]], lengthPenalty: -1,
    })
    expect(parse('--early-stopping', 'true', '--pad-token-id', '0', '--no-repeat-ngram-size', '3')).toEqual({ earlyStopping: true, padTokenId: 0, noRepeatNgramSize: 3 })
  })

  it.each([
    ['--max-new-tokens', 'x'], ['--max-new-tokens', '-1'], ['--max-new-tokens', '1.5'], ['--max-new-tokens', ''], ['--top-p', '1.2'],
    ['--temperature', 'NaN'], ['--early-stopping', 'maybe'], ['--bad-words-ids', '5,6'], ['--bad-words-ids', '[5]'], ['--eos-token-id', '1;2'],
    ['--repetition-penalty', '0'],
  ])('refuses %s %s', (...args) => {
    expect(() => parse(...args)).toThrow(CommanderError)
  })

  it('has a flag for every field', () => {
    const flags = addGenerationFlags(new Command('test')).options.map((option) => option.long)
    for (const name of Object.keys(GENERATION_FIELDS)) expect(flags).toContain(`--${kebabCase(name)}`)
    expect(new Set(flags).size).toBe(flags.length)
  })
})

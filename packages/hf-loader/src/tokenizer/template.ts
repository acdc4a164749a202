/** Chat templates: transformers' Jinja environment on `@huggingface/jinja`. */
import { OctetError } from '@octet-llm/core'
import { shown, type JsonObject } from './json.js'
import { Environment, Interpreter, parse, tokenize, type TemplateEnvironment } from './library.js'

/** What Jinja's sandbox allows (`MAX_RANGE`), and with it the longest list a template can make in one step. */
const MAX_RANGE = 100_000
/** Characters; far above any context a model has. */
const MAX_OUTPUT = 64 * 1024 * 1024

/** Template sources by name; a single template is `default`. */
export type TemplateSources = ReadonlyMap<string, string>

function fail(expected: string, received: string, hint: string, cause?: unknown): OctetError {
  return new OctetError('INVALID_TEMPLATE', {
    op: 'applyChatTemplate',
    argument: 'chat template',
    expected,
    received,
    hint,
    ...(cause === undefined ? {} : { cause }),
  })
}

/**
 * `chat_template.jinja` where there is one, else the config's `chat_template`: a string, or a list of `{name, template}`.
 *
 * @throws OctetError `INVALID_TEMPLATE` for a `chat_template` of another shape.
 */
export function readTemplates(config: JsonObject, file: string | null): TemplateSources {
  if (file !== null) return new Map([['default', file]])
  const value = config['chat_template']
  if (value === undefined || value === null) return new Map()
  if (typeof value === 'string') return new Map([['default', value]])
  const sources = new Map<string, string>()
  const entries: readonly unknown[] = Array.isArray(value) ? value : [value]
  for (const entry of entries) {
    const fields = typeof entry === 'object' && entry !== null ? (entry as JsonObject) : {}
    const { name, template } = fields
    if (typeof name !== 'string' || typeof template !== 'string') {
      throw fail('chat_template to be a text or a list of {name, template}', shown(value), 'repair tokenizer_config.json')
    }
    sources.set(name, template)
  }
  return sources
}

/** Thrown by `raise_exception`, to tell the template's own refusal from a fault in it. */
class Raised extends Error {}

export class ChatTemplate {
  readonly #sources: TemplateSources
  readonly #programs = new Map<string, unknown>()

  constructor(sources: TemplateSources) {
    this.#sources = sources
  }

  /**
   * Renders with the given variables. `tool_use` is chosen where the variables hold tools, else `default`.
   *
   * @throws OctetError `INVALID_TEMPLATE`: no such template, it does not parse, it fails or refuses the messages.
   */
  render(variables: Readonly<Record<string, unknown>>): string {
    const tools = variables['tools']
    const name = tools !== undefined && tools !== null && this.#sources.has('tool_use') ? 'tool_use' : 'default'
    let text: unknown
    try {
      text = new Interpreter(makeEnvironment(variables)).run(this.#program(name)).value
    } catch (error) {
      if (OctetError.is(error)) throw error
      const reason = error instanceof Error ? error.message : String(error)
      if (error instanceof Raised) throw fail('messages that it accepts', `its refusal ${shown(reason)}`, 'change the messages', error)
      throw fail('a template that renders these messages', shown(reason), 'check the messages, or repair chat_template.jinja', error)
    }
    if (typeof text !== 'string' || text.length > MAX_OUTPUT) {
      throw fail(`a text of at most ${MAX_OUTPUT} characters`, 'more', 'repair chat_template.jinja')
    }
    return text
  }

  #program(name: string): unknown {
    const known = this.#programs.get(name)
    if (known !== undefined) return known
    const source = this.#sources.get(name)
    if (source === undefined) {
      const names = [...this.#sources.keys()].map(shown).join(', ')
      throw fail('a template named default', names === '' ? 'none' : `only ${names}`, 'add chat_template.jinja beside tokenizer.json')
    }
    let program: unknown
    try {
      // Jinja reads every line ending as \n.
      program = parse(tokenize(source.replace(/\r\n?/g, '\n'), { trim_blocks: true, lstrip_blocks: true }))
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error)
      throw fail('Jinja that parses', shown(reason), 'repair chat_template.jinja', error)
    }
    this.#programs.set(name, program)
    return program
  }
}

function makeEnvironment(variables: Readonly<Record<string, unknown>>): TemplateEnvironment {
  const environment = new Environment()
  repairStrings(environment)
  const all = {
    true: true,
    false: false,
    none: null,
    True: true,
    False: false,
    None: null,
    raise_exception: (message: unknown) => {
      throw new Raised(String(message))
    },
    range,
    strftime_now: (format: unknown) => strftime(new Date(), String(format)),
    ...variables,
  }
  for (const [name, value] of Object.entries(all)) {
    environment.variables.delete(name)
    environment.set(name, value)
  }
  return environment
}

/** Python's `range`, bounded as Jinja's sandbox bounds it. */
function range(first: number, second?: number | null, step: number = 1): number[] {
  const [start, stop] = second === undefined || second === null ? [0, first] : [first, second]
  if (![start, stop, step].every(Number.isInteger) || step === 0) throw new Error('range() takes whole numbers and a step other than 0')
  const length = Math.max(0, Math.ceil((stop - start) / step))
  if (length > MAX_RANGE) throw new Error(`range() of ${length} items: at most ${MAX_RANGE}`)
  return Array.from({ length }, (_, i) => start + i * step)
}

const MONTHS = ['January', 'February', 'March', 'April', 'May', 'June', 'July', 'August', 'September', 'October', 'November', 'December']
const DAYS = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday']

/** Python's `strftime` in the C locale, for the directives that dates in prompts use; others stay as they are. */
export function strftime(date: Date, format: string): string {
  const two = (value: number): string => String(value).padStart(2, '0')
  const month = MONTHS[date.getMonth()] as string
  const day = DAYS[date.getDay()] as string
  const hour12 = date.getHours() % 12 === 0 ? 12 : date.getHours() % 12
  const values: Readonly<Record<string, string>> = {
    Y: String(date.getFullYear()), y: two(date.getFullYear() % 100), m: two(date.getMonth() + 1), d: two(date.getDate()),
    e: String(date.getDate()).padStart(2, ' '), B: month, b: month.slice(0, 3), A: day, a: day.slice(0, 3),
    H: two(date.getHours()), I: two(hour12), M: two(date.getMinutes()), S: two(date.getSeconds()),
    p: date.getHours() < 12 ? 'AM' : 'PM', '%': '%',
  }
  return format.replace(/%([A-Za-z%])/g, (whole, directive: string) => values[directive] ?? whole)
}

type StringMethod = (args: readonly { readonly type: string; readonly value: unknown }[]) => unknown

let stringsRepaired = false

/**
 * `strip`, `lstrip` and `rstrip` with an argument cut its characters (`'\n x'.strip('\n')`); the library ignores the
 * argument and cuts white space. The class is reached through a value, since the library does not export it.
 */
function repairStrings(environment: TemplateEnvironment): void {
  if (stringsRepaired) return
  const sample = environment.set('__sample', '')
  const callable = environment.set('__callable', () => null)
  environment.variables.delete('__sample')
  environment.variables.delete('__callable')
  const StringValue = sample.constructor as new (value: string) => object
  const FunctionValue = callable.constructor as new (value: StringMethod) => unknown
  const prototype = StringValue.prototype as object
  const original = Object.getOwnPropertyDescriptor(prototype, 'builtins')?.get
  if (original === undefined) return
  Object.defineProperty(prototype, 'builtins', {
    configurable: true,
    get(this: { value: string }): Map<string, unknown> {
      const methods = original.call(this) as Map<string, unknown>
      for (const [name, left, right] of [['strip', true, true], ['lstrip', true, false], ['rstrip', false, true]] as const) {
        methods.set(name, new FunctionValue((args) => new StringValue(strip(this.value, args[0], left, right))))
      }
      return methods
    },
  })
  stringsRepaired = true
}

function strip(text: string, chars: { readonly type: string; readonly value: unknown } | undefined, left: boolean, right: boolean): string {
  if (chars === undefined || typeof chars.value !== 'string') {
    const half = left ? text.trimStart() : text
    return right ? half.trimEnd() : half
  }
  const cut = new Set(chars.value)
  const units = [...text]
  let begin = 0
  let end = units.length
  if (left) while (begin < end && cut.has(units[begin] as string)) begin++
  if (right) while (end > begin && cut.has(units[end - 1] as string)) end--
  return units.slice(begin, end).join('')
}

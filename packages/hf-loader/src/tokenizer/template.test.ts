import { describe, expect, it } from 'vitest'
import { octetError } from './support.test-helper.js'
import { ChatTemplate, readTemplates, strftime } from './template.js'

const render = (source: string, variables: Record<string, unknown> = {}): string =>
  new ChatTemplate(new Map([['default', source]])).render(variables)
const refused = (source: string, variables: Record<string, unknown> = {}) => octetError(() => render(source, variables), 'INVALID_TEMPLATE')

// In the shape of the published templates of these families, rewritten.
const GEMMA = `{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {% endif %}
    {% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}`

describe('chat template', () => {
  it('renders a conversation, trims blocks, and drops one trailing newline', () => {
    const messages = [{ role: 'user', content: ' Hi ' }, { role: 'assistant', content: 'Yo' }]
    const text = render(`${GEMMA}\n`, { messages, bos_token: '<bos>', add_generation_prompt: true })
    expect(text).toBe('<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nYo<end_of_turn>\n<start_of_turn>model\n')
    expect(render('a\n  {% if true %}\n  b\n  {% endif %}\nc\n')).toBe('a\n  b\nc')
    expect(render('a\r\n  {% if true %}\r\n  b\r\n  {% endif %}\r\nc\r\n')).toBe('a\n  b\nc')
  })

  it("says a template's own refusal in its words", async () => {
    const error = await refused(GEMMA, { messages: [{ role: 'system', content: 'x' }] })
    expect(error.message).toContain('System role not supported')
    expect((await refused(GEMMA, { messages: [{ role: 'assistant', content: 'x' }] })).message).toContain('roles must alternate')
  })

  it('tojson writes what json.dumps with ensure_ascii=False writes', () => {
    const value = { b: [1, 2.5, null, true], a: 'é"\n<&' }
    expect(render('{{ x | tojson }}', { x: value })).toBe('{"b": [1, 2.5, null, true], "a": "é\\"\\n<&"}')
    expect(render('{{ x | tojson(indent=2) }}', { x: { a: [1] } })).toBe('{\n  "a": [\n    1\n  ]\n}')
  })

  it('strip takes characters, as in Python', () => {
    expect(render(`{{ x.strip('\\n') }}|{{ x.lstrip('\\n ') }}|{{ x.rstrip('\\n') }}|{{ x.strip() }}`, { x: '\n a \n' })).toBe(' a |a \n|\n a |a')
    expect(render(`{{ x.split('</think>')[-1].lstrip('\\n') }}`, { x: 'a</think>\n\nb' })).toBe('b')
  })

  it('range is a list up to the sandbox bound of Jinja', async () => {
    expect(render('{% for i in range(3) %}{{ i }}{% endfor %}')).toBe('012')
    expect(render('{% for i in range(5, 0, -2) %}{{ i }}{% endfor %}')).toBe('531')
    expect(render('{% for i in range(2, 2) %}{{ i }}{% endfor %}-')).toBe('-')
    expect(render('{{ range(100000) | length }}')).toBe('100000')
    for (const bad of ['100001', '100000000', '0, 1000000000', '1, 2, 0', '0.5', '"a"']) {
      expect((await refused(`{{ range(${bad}) }}`)).message).not.toBe('')
    }
  })

  it('variables override globals and defaults', () => {
    expect(render('{{ range }}{{ namespace }}', { range: 'r', namespace: 'n' })).toBe('rn')
    expect(render('{% if tools is none %}none{% endif %}{% if nothing is defined %}x{% endif %}', { tools: null })).toBe('none')
  })

  it('dates are in English and in the C locale', () => {
    const date = new Date(2024, 6, 5, 15, 4, 9)
    expect(strftime(date, '%d %b %Y, %B %A %a %e %y %H:%M:%S %I %p %% %q')).toBe('05 Jul 2024, July Friday Fri  5 24 15:04:09 03 PM % %q')
    expect(strftime(new Date(2024, 0, 1, 0, 0, 0), '%I %p')).toBe('12 AM')
    expect(render('{{ strftime_now("%Y") }}')).toBe(String(new Date().getFullYear()))
  })

  it('chooses tool_use for tools and names what is missing', async () => {
    const both = new ChatTemplate(new Map([['default', 'd'], ['tool_use', 't']]))
    expect(both.render({ tools: [] })).toBe('t')
    expect(both.render({ tools: null })).toBe('d')
    expect(both.render({})).toBe('d')
    const error = await octetError(() => new ChatTemplate(new Map([['rag', 'r']])).render({}), 'INVALID_TEMPLATE')
    expect(error.message).toContain('"rag"')
    await octetError(() => new ChatTemplate(new Map()).render({}), 'INVALID_TEMPLATE')
  })

  it.each([
    '{{', '{% if %}', '{% for x in %}{% endfor %}', '{{ x | nofilter }}', '{% nothing %}', "{{ '", '{% endfor %}', '{{ 1 +',
    '{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}', '{{ x.y.z.w() }}', '{{ none + 1 }}', '{% set a.b = 1 %}', '{{ messages[0].content }}',
    '\u0000{%\u0000%}', '{{ "a".constructor("x")() }}', '{% for a, b in [[1]] %}{% endfor %}',
  ])('a broken template is one error: %j', async (source) => {
    // Some of these render (undefined prints nothing); none may throw anything but INVALID_TEMPLATE.
    try {
      expect(typeof render(source)).toBe('string')
    } catch {
      await refused(source)
    }
  })

  it('cannot reach JavaScript', () => {
    expect(render("{{ ''.constructor }}{{ x.__proto__ }}{{ x.constructor }}{{ [].constructor }}", { x: {} })).toBe('')
  })

  it('reads the config in every shape; the file comes first', async () => {
    expect([...readTemplates({ chat_template: 'a' }, null)]).toEqual([['default', 'a']])
    expect([...readTemplates({ chat_template: 'a' }, 'file')]).toEqual([['default', 'file']])
    expect([...readTemplates({ chat_template: [{ name: 'default', template: 'a' }, { name: 'x', template: 'b' }] }, null)]).toEqual([['default', 'a'], ['x', 'b']])
    expect(readTemplates({}, null).size).toBe(0)
    for (const bad of [7, [7], [{ name: 'a' }], { template: 'x' }, [null]]) {
      await octetError(() => readTemplates({ chat_template: bad }, null), 'INVALID_TEMPLATE')
    }
  })
})

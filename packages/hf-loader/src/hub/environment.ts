import { readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { OctetError } from '@octet-llm/core'

/** Where the hub is and what this user may do there. */
export interface HubEnvironment {
  /** Without a slash at its end. */
  readonly endpoint: string
  readonly token: string | null
  /** The folder that holds `models--owner--name`. */
  readonly cacheDir: string
  readonly offline: boolean
}

export interface HubOverrides {
  /** Default `HF_ENDPOINT`, else https://huggingface.co. */
  readonly endpoint?: string
  /** Default `HF_TOKEN`, else the file that `huggingface-cli login` wrote. null sends none. */
  readonly token?: string | null
  /** Default `HF_HUB_CACHE`, else `HF_HOME/hub`, else ~/.cache/huggingface/hub. */
  readonly cacheDir?: string
}

/**
 * Reads the variables that huggingface_hub reads: HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH, HF_HOME, HF_HUB_CACHE,
 * XDG_CACHE_HOME, HF_HUB_OFFLINE.
 *
 * @throws OctetError `INVALID_ARGUMENT` when the endpoint is no http(s) address.
 */
export function readHubEnvironment(overrides: HubOverrides = {}, env: NodeJS.ProcessEnv = process.env): HubEnvironment {
  const home = text(env['HF_HOME']) ?? join(text(env['XDG_CACHE_HOME']) ?? join(homedir(), '.cache'), 'huggingface')
  const cacheDir = overrides.cacheDir ?? text(env['HF_HUB_CACHE']) ?? text(env['HUGGINGFACE_HUB_CACHE']) ?? join(expand(home), 'hub')
  return {
    endpoint: checkEndpoint(overrides.endpoint ?? text(env['HF_ENDPOINT']) ?? 'https://huggingface.co'),
    token: overrides.token === undefined ? readToken(env, expand(home)) : overrides.token,
    cacheDir: resolve(expand(cacheDir)),
    offline: /^(1|true|yes|on)$/i.test(env['HF_HUB_OFFLINE'] ?? ''),
  }
}

function readToken(env: NodeJS.ProcessEnv, home: string): string | null {
  const direct = text(env['HF_TOKEN']) ?? text(env['HUGGING_FACE_HUB_TOKEN'])
  if (direct !== null) return direct
  try {
    return text(readFileSync(expand(text(env['HF_TOKEN_PATH']) ?? join(home, 'token')), 'utf8'))
  } catch {
    return null
  }
}

function text(value: string | undefined): string | null {
  const trimmed = value?.trim() ?? ''
  return trimmed === '' ? null : trimmed
}

function expand(path: string): string {
  return path === '~' || path.startsWith('~/') ? join(homedir(), path.slice(1)) : path
}

function checkEndpoint(endpoint: string): string {
  let url: URL | null = null
  try {
    url = new URL(endpoint)
  } catch {
    // Refused below.
  }
  if (url?.protocol !== 'https:' && url?.protocol !== 'http:') {
    throw new OctetError('INVALID_ARGUMENT', {
      op: 'pull',
      argument: 'HF_ENDPOINT',
      expected: 'an address that begins with https:// or http://',
      received: JSON.stringify(endpoint),
    })
  }
  return endpoint.replace(/\/+$/, '')
}

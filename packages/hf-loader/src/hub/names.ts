/** Names that come from users and from the hub, and end in paths and addresses. */
import { OctetError } from '@octet-llm/core'

const SEGMENT = /^[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?$/
const MAX_SEGMENT = 96

/** True for `owner/name` as the hub allows it: letters, digits, `-`, `_`, `.`, and neither `--` nor `..`. */
export function isHubId(id: string): boolean {
  const parts = id.split('/')
  return parts.length === 2 && parts.every((part) => part.length <= MAX_SEGMENT && SEGMENT.test(part) && !part.includes('--') && !part.includes('..'))
}

/** @throws OctetError `INVALID_ARGUMENT`. */
export function checkHubId(id: string): void {
  if (typeof id === 'string' && isHubId(id)) return
  throw new OctetError('INVALID_ARGUMENT', { op: 'pull', argument: 'id', expected: 'owner/name', received: JSON.stringify(id) ?? 'nothing' })
}

/** A branch, tag, `refs/pr/N` or commit. @throws OctetError `INVALID_ARGUMENT`. */
export function checkRevision(revision: string): void {
  if (typeof revision === 'string' && isPlainPath(revision) && /^[A-Za-z0-9._/+@=-]+$/.test(revision)) return
  throw new OctetError('INVALID_ARGUMENT', { op: 'pull', argument: 'revision', expected: 'a branch, tag or commit', received: JSON.stringify(revision) ?? 'nothing' })
}

export function isCommit(value: unknown): value is string {
  return typeof value === 'string' && /^[0-9a-f]{40}$/.test(value)
}

/** A relative path with forward slashes that stays below the folder it is joined to, on every system. */
export function isPlainPath(path: string): boolean {
  if (path === '' || path.length > 1024 || /[\\:\p{Cc}]/u.test(path)) return false
  return path.split('/').every((part) => part !== '' && part !== '.' && part !== '..')
}

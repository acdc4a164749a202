import { defineProject } from 'vitest/config'

export default defineProject({ test: { name: 'octet', include: ['src/**/*.test.ts'] } })

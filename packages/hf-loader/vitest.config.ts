import { defineProject } from 'vitest/config'

export default defineProject({ test: { name: 'hf-loader', include: ['src/**/*.test.ts'], testTimeout: 60_000, hookTimeout: 60_000 } })

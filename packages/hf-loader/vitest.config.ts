import { defineProject } from 'vitest/config'

export default defineProject({ test: { name: 'hf-loader', include: ['src/**/*.test.ts'] } })

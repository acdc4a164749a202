import { defineProject } from 'vitest/config'

export default defineProject({ test: { name: 'fp8-recipe', include: ['src/**/*.test.ts'] } })

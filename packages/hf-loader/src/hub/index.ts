export { readHubEnvironment, type HubEnvironment, type HubOverrides } from './environment.js'
export { isHubId } from './names.js'
export { pull, type PullFile, type PullOptions, type PullPlan, type PullProgress, type PullResult } from './pull.js'
export { resolveModel, type ResolvedModel } from './resolve.js'

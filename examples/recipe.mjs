// Only the FP8 recipe that a device calls for: no native code is installed for it.
// #region snippet
import { getDefaultFp8Recipe } from '@octet-llm/fp8-recipe'

const capability = { kind: 'cuda', computeCapability: [9, 0], cudaVersion: '13.0', cublasLtVersion: 130100 }
const { recipe, reason } = getDefaultFp8Recipe(capability)
console.log(recipe, reason)
// #endregion

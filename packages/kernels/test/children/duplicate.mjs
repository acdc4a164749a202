// Loads the package from two folders; prints the code of the second one's refusal. Argument: folder of the copy.
import { pathToFileURL } from 'node:url'
import { openDevice } from '../../dist/index.js'

const first = await openDevice('cpu', { threads: 1 })
const copy = await import(pathToFileURL(`${process.argv[2]}/dist/index.js`).href)
await copy.openDevice('cpu').catch((error) => console.log(`${error.code} ${error.message}`))
await first.dispose()

// What a vitest JSON report amounts to: counts, and everything that makes a green run a lie.

/** Tests that may be skipped, and only on a machine without an NVIDIA GPU. */
const CUDA_TITLE = /\bCUDA\b/

/**
 * @param report   vitest's JSON report
 * @param allowed  { count, reason }: how many CUDA tests a machine without a GPU skips
 * @returns passed, failed, skipped, and `problems`: one sentence for each thing wrong
 */
export function summarise(report, allowed) {
  const problems = []
  let passed = 0
  let failed = 0
  const skipped = []
  for (const file of report.testResults) {
    let failedHere = 0
    for (const test of file.assertionResults) {
      if (test.status === 'passed') passed += 1
      else if (test.status === 'failed') failedHere += 1
      else skipped.push(test.fullName)
    }
    // A file that could not be loaded has no failed test of its own.
    if (file.status === 'failed' && failedHere === 0) {
      failedHere = 1
      problems.push(`${file.name}: ${file.message || 'could not run'}`)
    }
    failed += failedHere
  }
  for (const name of skipped.filter((title) => !CUDA_TITLE.test(title))) {
    failed += 1
    problems.push(`"${name}" is skipped, and only CUDA cases may be`)
  }
  if (skipped.length !== 0 && skipped.length !== allowed.count) {
    failed += 1
    problems.push(`${skipped.length} tests are skipped, ${allowed.count} are expected (${allowed.reason})`)
  }
  if (passed === 0) {
    failed += 1
    problems.push('no test ran')
  }
  if (report.success === false && failed === 0) {
    failed += 1
    problems.push('vitest reports a failure outside the tests')
  }
  return { passed, failed, skipped: skipped.length, problems }
}

/** The closing line. */
export function closingLine({ passed, failed, skipped }) {
  return `${passed} passed, ${failed} failed, ${skipped} skipped`
}

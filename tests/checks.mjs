/** Runs checks and reports them: the browser's and the clients'. */

/**
 * Runs the checks whose name contains `wanted`, `atOnce` at the same time. A check fails after `ms` milliseconds. Ends with one
 * line, `N passed, N failed`; returns the number that failed.
 */
export async function runChecks(checks, run, { wanted, ms, atOnce = 1 }) {
  const waiting = Object.entries(checks).filter(([name]) => name.includes(wanted));
  let passed = 0;
  let failed = 0;

  const work = async () => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const [name, check] = next;
      const started = Date.now();
      try {
        await within(ms, run(check));
        passed += 1;
        console.log(`ok    ${name} (${Date.now() - started} ms)`);
      } catch (error) {
        failed += 1;
        console.log(`FAIL  ${name}\n${error.stack ?? error}`);
      }
    }
  };
  await Promise.all(Array.from({ length: atOnce }, work));
  console.log(`${passed} passed, ${failed} failed`);
  return failed;
}

function within(ms, work) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done after ${ms} ms`)), ms);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

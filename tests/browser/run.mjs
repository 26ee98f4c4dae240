/**
 * Drives the pages of a real node with a real browser.
 *
 *   npm ci && node run.mjs [part of a check's name]
 *
 * MILLSTREAM_BIN  the program (default ../../target/debug/millstream)
 * CHROMIUM        the browser (default /usr/bin/chromium)
 * SCREENSHOTS     a folder for pictures (default: none are taken)
 * JOURNALS        journals to crash, comma separated (default `memory,embedded`)
 *
 * Ends with one line, `N passed, N failed`; the exit status is 1 when one failed, 77 when there is no browser.
 */

import { existsSync } from "node:fs";
import path from "node:path";

import { runChecks } from "../checks.mjs";
import { Browser } from "./browser.mjs";
import { Node } from "./node.mjs";
import { access } from "./checks/access.mjs";
import { connecting } from "./checks/connecting.mjs";
import { crashes } from "./checks/crashes.mjs";
import { dashboard } from "./checks/dashboard.mjs";
import { jobs } from "./checks/jobs.mjs";
import { keyboard } from "./checks/keyboard.mjs";
import { looks } from "./checks/looks.mjs";
import { models } from "./checks/models.mjs";
import { remotes } from "./checks/remotes.mjs";
import { streams } from "./checks/streams.mjs";

const CHECK_MS = 120_000;
/** Checks that run at the same time; most of their time they wait. */
const AT_ONCE = 3;

const binary = path.resolve(import.meta.dirname, process.env.MILLSTREAM_BIN ?? "../../target/debug/millstream");
const chromium = process.env.CHROMIUM ?? "/usr/bin/chromium";
const wanted = process.argv[2] ?? "";

function skip(reason) {
  console.log(`\n*** SKIPPED: the browser tests did NOT run: ${reason} ***\n`);
  process.exit(77);
}

if (!existsSync(chromium)) skip(`there is no browser at \`${chromium}\``);
if (!existsSync(binary)) {
  console.error(`there is no program at \`${binary}\`: build it, or name it in MILLSTREAM_BIN`);
  process.exit(1);
}
const playwright = await import("playwright-core").catch(() =>
  skip("playwright-core is not installed, run `npm ci` here"),
);

const checks = { ...streams, ...models, ...connecting, ...access, ...jobs, ...remotes, ...keyboard, ...dashboard, ...looks, ...crashes };
const browser = await Browser.launch(playwright, chromium);
const failed = await runChecks(checks, run, { wanted, ms: CHECK_MS, atOnce: AT_ONCE });
await browser.close();
process.exit(failed === 0 ? 0 : 1);

/** Each check gets a node, a second one for its remote, and a browser context of its own, so that none can lean on another. */
async function run(check) {
  const node = new Node(binary);
  const other = new Node(binary);
  const session = browser.session(node);
  try {
    await check({ node, other, open: session.open, browser });
    await session.assertQuiet();
  } catch (error) {
    await session.capture("failed");
    const said = node.errors();
    if (said !== "") error.message += `\nthe node's last words:\n${said}`;
    throw error;
  } finally {
    await session.close();
    await node.stop();
    await other.stop();
  }
}

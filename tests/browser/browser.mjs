/** The browser, and pages that remember every fault they show. */

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import path from "node:path";

const WAIT_MS = 20_000;
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
const SHOTS = process.env.SCREENSHOTS;
/** The browser itself logs each refused or failed request; that is no fault of the page where a check provokes it. */
const NETWORK = /^Failed to load resource|net::ERR_/;

export class Browser {
  #browser;

  static async launch(playwright, executablePath) {
    const launched = new Browser();
    launched.#browser = await playwright.chromium.launch({ executablePath, headless: true, args: FLAGS });
    return launched;
  }

  close() {
    return this.#browser.close();
  }

  /** Cookies and connections of its own. Certificates of tests are their own authorities. */
  #context(scheme, width, height) {
    return this.#browser.newContext({ colorScheme: scheme, viewport: { width, height }, ignoreHTTPSErrors: true });
  }

  /** Pages of one check: `open(path, options)`; `beside` another page it shares its cookies and connections. */
  session(node) {
    const contexts = [];
    const pages = [];
    const faults = [];

    const open = async (where, { scheme = "light", width = 1400, height = 1000, provokes = false, beside } = {}) => {
      const context = beside?.context() ?? (await this.#context(scheme, width, height));
      if (beside === undefined) contexts.push(context);
      const page = await context.newPage();
      page.setDefaultTimeout(WAIT_MS);
      watch(page, faults, provokes);
      await page.addInitScript(() => {
        document.addEventListener("securitypolicyviolation", (violation) => {
          console.error(`CSP violation: ${violation.violatedDirective} ${violation.blockedURI}`);
        });
      });
      const answer = await page.goto(node.origin + where);
      assert.equal(answer.status(), 200, where);
      pages.push(page);
      return page;
    };

    return {
      open,
      assertQuiet: async () => assert.deepEqual(faults, [], "the page showed faults"),
      capture: async (name) => {
        for (const [index, page] of pages.entries()) await shoot(page, `${name}-${index}`).catch(() => {});
      },
      close: async () => {
        for (const context of contexts) await context.close();
      },
    };
  }
}

function watch(page, faults, provokes) {
  page.on("pageerror", (error) => faults.push(`uncaught: ${error.message}`));
  page.on("console", (message) => {
    if (message.type() !== "error" && message.type() !== "warning") return;
    if (provokes && NETWORK.test(message.text())) return;
    faults.push(`console: ${message.text()} ${message.location().url}`);
  });
}

/** Takes a picture if the caller of the tests wants pictures. */
export async function shoot(page, name) {
  if (!SHOTS) return;
  await page.evaluate(() => scrollTo(0, 0));
  mkdirSync(SHOTS, { recursive: true });
  await page.screenshot({ path: path.join(SHOTS, `${name}.png`), fullPage: true });
}

/** Waits until `probe` answers something true; says what it was waiting for. */
export async function until(what, probe, ms = WAIT_MS) {
  const end = Date.now() + ms;
  for (;;) {
    const found = await probe();
    if (found) return found;
    assert.ok(Date.now() < end, `waited ${ms} ms in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Waits for the badge to say this. */
export function badge(page, state, ms = WAIT_MS) {
  return until(
    `the badge to be ${state}`,
    async () => (await page.locator("#badge").getAttribute("data-state")) === state,
    ms,
  );
}

/** Fills the connect form, presses the button and waits for the badge. */
export async function connect(page, user, fields = {}) {
  await page.fill("#token", user);
  for (const [id, value] of Object.entries(fields)) await page.fill(`#${id}`, value);
  await page.click("#connect");
  await badge(page, "live");
}

/** The data of all rows of the log with this event name, hidden ones too. */
export function logged(page, event) {
  return page.$$eval(
    "#log-body tr",
    (rows, name) =>
      rows.filter((row) => row.dataset.event === name).map((row) => row.querySelector("summary").textContent),
    event,
  );
}

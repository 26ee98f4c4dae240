/** Both pages in both schemes, wide and narrow: nothing is cut off, nothing breaks the content policy. */

import assert from "node:assert/strict";

import { connect, shoot, until } from "../browser.mjs";

async function assertFits(page, what) {
  const { content, frame } = await page.evaluate(() => ({
    content: document.documentElement.scrollWidth,
    frame: document.documentElement.clientWidth,
  }));
  assert.ok(content <= frame, `${what}: ${content} px wide in a window of ${frame} px`);
}

function background(page) {
  return page.evaluate(() => getComputedStyle(document.body).backgroundColor);
}

export const looks = {
  "looks: both pages fit 360 px and 1400 px, in light and dark": async ({ node, open }) => {
    await node.start();
    await node.post("/api/jobs", { tasks: [{ name: "Calculate Stats", run: "Calculate Stats" }] });
    for (const scheme of ["light", "dark"]) {
      for (const width of [360, 1400]) {
        const name = `${scheme}-${width}`;
        const page = await open("/sse-client.html", { scheme, width });
        await connect(page, "a-rather-long-user-name-that-must-wrap", { topics: "order:*", history: "5" });
        await page.click("#send");
        await page.selectOption("#job-example", "fails");
        await page.click("#job-submit");
        await until(
          "the job's end",
          async () => (await page.getAttribute("#job-status", "data-state")) === "partial",
          60_000,
        );
        await assertFits(page, `test page ${name}`);
        await shoot(page, `client-${name}`);
        const board = await open("/", { scheme, width });
        await until("the jobs", async () => (await board.locator("#jobs tr").count()) > 0);
        await assertFits(board, `dashboard ${name}`);
        await shoot(board, `dashboard-${name}`);
      }
    }
  },

  "looks: the theme can be chosen, and is remembered": async ({ node, open }) => {
    await node.start();
    const page = await open("/sse-client.html", { scheme: "light" });
    const light = await background(page);
    await page.selectOption("#theme", "dark");
    const dark = await background(page);
    assert.notEqual(dark, light);
    await page.reload();
    assert.equal(await background(page), dark);
    assert.equal(await page.inputValue("#theme"), "dark");
    await page.selectOption("#theme", "auto");
    assert.equal(await background(page), light);
  },

  "looks: the pages come with a strict content policy and obey it": async ({ node, open }) => {
    await node.start();
    for (const where of ["/", "/sse-client.html"]) {
      const response = await fetch(node.origin + where);
      const policy = response.headers.get("Content-Security-Policy") ?? "";
      assert.match(policy, /default-src 'self'/, where);
      assert.doesNotMatch(policy, /unsafe/, where);
      const page = await open(where);
      const inline = await page.locator("script:not([src]), style, [style], [onclick]").count();
      assert.equal(inline, 0, where);
    }
  },
};

/** Without a mouse, and for those who hear the page. */

import assert from "node:assert/strict";

import { badge, until } from "../browser.mjs";

const NAMED_ROLES = new Set([
  "textbox",
  "searchbox",
  "combobox",
  "checkbox",
  "radio",
  "spinbutton",
  "button",
  "link",
  "progressbar",
  "region",
]);

function focused(page) {
  return page.evaluate(() => document.activeElement?.id ?? "");
}

/** Presses Tab until the element has the focus; each stop must be visible as such. */
async function tabTo(page, id) {
  for (let presses = 0; presses < 60; presses += 1) {
    await page.keyboard.press("Tab");
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    assert.notEqual(outline, "none", `the focus on \`${await focused(page)}\` cannot be seen`);
    if ((await focused(page)) === id) return;
  }
  assert.fail(`Tab does not lead to \`${id}\``);
}

async function assertNamed(page) {
  const session = await page.context().newCDPSession(page);
  const { nodes } = await session.send("Accessibility.getFullAXTree");
  const nameless = nodes
    .filter((node) => !node.ignored && NAMED_ROLES.has(node.role?.value) && !node.name?.value?.trim())
    .map((node) => `${node.role.value} ${JSON.stringify(node.properties ?? [])}`);
  assert.deepEqual(nameless, [], "each control needs an accessible name");
  assert.ok(nodes.length > 20, "the page is there");
  // A placeholder passes for a name there, but vanishes with the first letter: fields need labels.
  const unlabelled = await page.$$eval("input, select, textarea", (fields) =>
    fields
      .filter((field) => ![...field.labels].some((label) => label.textContent.trim() !== ""))
      .map((field) => field.id),
  );
  assert.deepEqual(unlabelled, [], "each field needs a label");
}

export const keyboard = {
  "keyboard: connect, send and disconnect with keys alone": async ({ node, open }) => {
    await node.start();
    const page = await open("/sse-client.html");
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
    await page.keyboard.press("Enter");
    await tabTo(page, "token");
    await page.keyboard.type("keys");
    await tabTo(page, "connect");
    await page.keyboard.press("Enter");
    await badge(page, "live");
    assert.equal(await focused(page), "disconnect", "the focus stays near");
    await tabTo(page, "send-to");
    assert.equal(await page.inputValue("#send-to"), "keys", "oneself is offered");
    await page.keyboard.press("Enter");
    await until("the answer", async () => /Delivered to 1/.test(await page.textContent("#send-answer")));
    await page.focus("#disconnect");
    await page.keyboard.press("Space");
    await badge(page, "idle");
    assert.equal(await focused(page), "connect");
  },

  "keyboard: every control has an accessible name": async ({ node, open }) => {
    await node.start();
    const page = await open("/sse-client.html");
    await assertNamed(page);
    await page.click("#job-submit");
    await until("the tasks", async () => (await page.locator("#job-tasks > li").count()) === 4);
    await assertNamed(page);
    const board = await open("/");
    await until("a job", async () => (await board.locator("#jobs tr").count()) === 1);
    await assertNamed(board);
  },
};

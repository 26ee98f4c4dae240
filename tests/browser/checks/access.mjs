/** Token mode in a browser: `EventSource` sends no headers, so it comes by cookie or by ticket, over HTTP/1.1 and HTTP/2. */

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync } from "node:fs";
import os from "node:os";
import path from "node:path";

import { badge, connect, logged, shoot, until } from "../browser.mjs";

const TOKEN = "token-of-ada";
const TABS = 10;
/** The dashboard asks so often. */
const POLL_MS = 2000;

/** Settings in which Ada may do everything, with TLS where HTTP/2 is wanted: browsers speak it over nothing else. */
function settings(http2) {
  const sha256 = createHash("sha256").update(TOKEN).digest("hex");
  const access = `[access]\nmode = "token"\n[[access.tokens]]\nname = "ada"\nsha256 = "${sha256}"\nadmin = true\n`;
  return http2 ? `${access}[server]\n${certificate()}` : access;
}

function certificate() {
  const dir = mkdtempSync(path.join(os.tmpdir(), "millstream-tls-"));
  const [cert, key] = [path.join(dir, "cert.pem"), path.join(dir, "key.pem")];
  const ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", cert];
  const made = spawnSync("openssl", ["req", "-x509", ...ec, "-days", "2", "-subj", "/CN=localhost"]);
  assert.equal(made.status, 0, `openssl makes a certificate: ${made.stderr}`);
  return `tls_cert = "${cert}"\ntls_key = "${key}"\n`;
}

/** Opens an `EventSource` in the page; what it hears is kept in `window.heard`. */
function listen(page, address) {
  return page.evaluate((url) => {
    window.heard = [];
    window.opened = 0;
    window.source = new EventSource(url);
    window.source.onopen = () => (window.opened += 1);
    window.source.addEventListener("news", (event) => window.heard.push(event.data));
  }, address);
}

const heard = (page) => page.evaluate(() => window.heard.join());
const opened = (page) => page.evaluate(() => window.opened);

/** A request of the page itself, with the token in a header. */
function ask(page, method, where, json) {
  return page.evaluate(
    async ([method, where, json, token]) => {
      const headers = { "X-Auth-Token": token, "Content-Type": "application/json" };
      const body = json === undefined ? undefined : JSON.stringify(json);
      const response = await fetch(where, { method, headers, body });
      const text = await response.text();
      if (!response.ok) throw new Error(`${method} ${where}: ${response.status} ${text}`);
      return text;
    },
    [method, where, json, TOKEN],
  );
}

const publish = (page, data) => ask(page, "POST", "/events", { topic: "orders", event: "news", data });

async function spoken(page) {
  return page.evaluate(() => performance.getEntriesByType("navigation")[0].nextHopProtocol);
}

async function byCookie({ node, open }, http2) {
  await node.start({ settings: settings(http2) });
  const page = await open("/", { provokes: true });
  assert.equal(await spoken(page), http2 ? "h2" : "http/1.1");
  await listen(page, "/events?topics=orders");
  await until("the refusal", () => page.evaluate(() => window.source.readyState === EventSource.CLOSED));
  const cookie = { name: "millstream_token", value: TOKEN, url: node.origin, httpOnly: true, sameSite: "Strict" };
  await page.context().addCookies([cookie]);
  await listen(page, "/events?topics=orders");
  await until("the stream", async () => (await opened(page)) === 1);
  await publish(page, "by cookie");
  await until("the event", async () => (await heard(page)) === "by cookie");
}

async function byTicket({ node, open }, http2) {
  await node.start({ settings: settings(http2), journal: "embedded" });
  const page = await open("/", { provokes: true });
  assert.equal(await spoken(page), http2 ? "h2" : "http/1.1");
  const { ticket } = JSON.parse(await ask(page, "POST", "/api/tickets"));
  await listen(page, `/events?topics=orders&ticket=${ticket}`);
  await until("the stream", async () => (await opened(page)) === 1);
  await publish(page, "one");
  await until("the event", async () => (await heard(page)) === "one");
  // The browser comes back to the same address by itself, with a ticket that is used and the cookie that it was given.
  await node.crash();
  await node.start({ settings: null });
  await until("the browser's return", async () => (await opened(page)) === 2);
  await publish(page, "two");
  await until("the next event", async () => (await heard(page)) === "one,two");
  const visible = await page.evaluate(() => document.cookie);
  assert.equal(visible, "", "no script can read the session");
}

export const access = {
  "access: EventSource comes by cookie over HTTP/1.1": (tools) => byCookie(tools, false),
  "access: EventSource comes by cookie over HTTP/2": (tools) => byCookie(tools, true),
  "access: EventSource comes by ticket over HTTP/1.1, and returns by itself": (tools) => byTicket(tools, false),
  "access: EventSource comes by ticket over HTTP/2, and returns by itself": (tools) => byTicket(tools, true),

  "access: ten tabs of streams share one HTTP/2 connection": async ({ node, open }) => {
    await node.start({ settings: settings(true) });
    const first = await open("/", { provokes: true });
    const cookie = { name: "millstream_token", value: TOKEN, url: node.origin, httpOnly: true, sameSite: "Strict" };
    await first.context().addCookies([cookie]);
    const tabs = [first];
    while (tabs.length < TABS) tabs.push(await open("/sse-client.html", { beside: first }));
    for (const tab of tabs) await listen(tab, "/events?topics=orders");
    for (const tab of tabs) await until("each tab's stream", async () => (await opened(tab)) === 1);
    await publish(first, "to all tabs");
    for (const tab of tabs) await until("each tab's event", async () => (await heard(tab)) === "to all tabs");
    const metrics = await ask(first, "GET", "/metrics");
    const figure = (name) => Number(new RegExp(`^millstream_${name} ([\\d.]+)$`, "m").exec(metrics)[1]);
    assert.equal(figure("connections"), 1, "one connection carries them all");
    assert.ok(figure("streams_open") >= TABS);
  },

  "access: the test page works with a token, and says what is missing without one": async ({ node, open }) => {
    await node.start({ settings: settings(false) });
    const page = await open("/sse-client.html", { provokes: true });
    await page.fill("#topics", "orders");
    await page.click("#connect");
    await badge(page, "refused");
    assert.match(await page.textContent("#connect-error"), /needs a token/);
    await shoot(page, "without-a-token");
    await connect(page, TOKEN, { topics: "orders" });
    await publish(page, "for the page");
    await until("the event", async () => (await logged(page, "news")).length === 1);
    await shoot(page, "with-a-token");
  },

  "access: the dashboard asks for a token once, and both pages keep the one that was entered": async ({ node, open }) => {
    await node.start({ settings: settings(false) });
    const board = await open("/", { provokes: true });
    let asked = 0;
    board.on("request", () => (asked += 1));
    await badge(board, "idle");
    assert.match(await board.textContent("#problem"), /needs a token/);
    await shoot(board, "dashboard-without-a-token");
    const before = asked;
    await board.waitForTimeout(POLL_MS * 2);
    assert.equal(asked, before, "without a token nothing is asked again");
    await board.fill("#token", "wrong");
    await board.click("#token-form button");
    await until("the refusal", async () => /does not accept/.test(await board.textContent("#problem")));
    await board.fill("#token", TOKEN);
    await board.click("#token-form button");
    await badge(board, "live");
    assert.equal(await board.textContent("#total-emitters"), "0");
    await board.goto(`${node.origin}/sse-client.html`);
    assert.equal(await board.inputValue("#token"), TOKEN, "the test page has the token of the dashboard");
    await board.click("#connect");
    await badge(board, "live");
    await board.goto(`${node.origin}/`);
    await badge(board, "live");
  },

  "access: the dashboard of a caller who is no admin shows what is its own": async ({ node, open }) => {
    const sha256 = createHash("sha256").update("token-of-bob").digest("hex");
    const bob = `[[access.tokens]]\nname = "bob"\nsha256 = "${sha256}"\njobs = true\n`;
    await node.start({ settings: settings(false) + bob });
    const board = await open("/", { provokes: true });
    let asked = 0;
    await badge(board, "idle");
    await board.fill("#token", "token-of-bob");
    await board.click("#token-form button");
    await badge(board, "live");
    board.on("request", (request) => (asked += request.url().endsWith("/status") ? 1 : 0));
    assert.equal(await board.isVisible("#for-admins"), true);
    assert.equal(await board.isVisible("#problem"), false);
    assert.match(await board.textContent("#jobs-empty"), /No job yet/);
    await board.waitForResponse((response) => response.url().includes("/api/jobs"));
    assert.equal(asked, 0, "what is refused is asked once");
    await shoot(board, "dashboard-of-no-admin");
  },
};

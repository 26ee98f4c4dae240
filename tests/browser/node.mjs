/** One real node as a child process, and requests to it. Ends only the process that it started. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";

const START_MS = 20_000;
const STOP_MS = 10_000;

export class Node {
  #binary;
  #child = null;
  #dir = null;
  #journal = "memory";
  #stderr = "";
  /** `http://127.0.0.1:PORT`, with TLS `https`; the port stays the same over restarts. */
  origin = null;

  constructor(binary) {
    this.#binary = binary;
  }

  /**
   * Starts the node, after a crash on the same port and the same data. `remote` is the node that it calls `reactive`;
   * `settings` is the text of its settings, `null` for those that it had.
   */
  async start({ journal = this.#journal, remote, settings } = {}) {
    assert.equal(this.#child, null, "the node is already running");
    this.#journal = journal;
    this.#dir ??= await mkdtemp(path.join(os.tmpdir(), "millstream-browser-"));
    const listen = this.origin === null ? "127.0.0.1:0" : new URL(this.origin).host;
    const file = path.join(this.#dir, "config.toml");
    if (typeof settings === "string") await writeFile(file, settings);
    const config = settings === undefined ? [] : ["--config", file];
    const child = spawn(this.#binary, ["serve", "--listen", listen, ...config], {
      cwd: this.#dir,
      env: { ...process.env, MILLSTREAM__JOURNAL__KIND: journal, REACTIVE_SERVER_URL: remote?.origin ?? "" },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#child = child;
    child.stderr.on("data", (chunk) => {
      this.#stderr = (this.#stderr + chunk).slice(-4000);
    });
    this.origin = await listening(child);
    return this;
  }

  /** `kill -9`: the node gets no chance to say goodbye. */
  async crash() {
    await this.#end("SIGKILL");
  }

  /** SIGTERM; it can be started again. */
  async halt() {
    await this.#end("SIGTERM");
  }

  async stop() {
    if (this.#child !== null) await this.#end("SIGTERM");
    if (this.#dir !== null) await rm(this.#dir, { recursive: true, force: true });
  }

  async #end(signal) {
    const child = this.#child;
    this.#child = null;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((resolve) => child.once("exit", resolve));
    child.kill(signal);
    const timer = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
    await gone;
    clearTimeout(timer);
  }

  /** The end of what the node wrote to its log. */
  errors() {
    return this.#stderr;
  }

  /** Sends JSON and answers with the parsed body; fails the check on a refusal. */
  async post(where, json) {
    const response = await fetch(this.origin + where, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(json),
    });
    const text = await response.text();
    assert.ok(response.ok, `POST ${where}: ${response.status} ${text}`);
    return JSON.parse(text);
  }

  sendToUser(user, data, event = "message") {
    return this.post(`/api/sse/managed/send/user/${user}?event=${event}`, data);
  }
}

/** Resolves with the address of the line `listening on http://ADDR`. */
function listening(child) {
  return new Promise((resolve, reject) => {
    let seen = "";
    const timer = setTimeout(() => reject(new Error(`the node did not start; it said: ${seen}`)), START_MS);
    child.once("error", reject);
    child.once("exit", (code, signal) => reject(new Error(`the node ended at its start (${signal ?? code})`)));
    child.stdout.on("data", (chunk) => {
      seen = (seen + chunk).slice(-4000);
      const line = /^listening on (https?:\/\/\S+)$/m.exec(seen);
      if (line === null) return;
      clearTimeout(timer);
      resolve(line[1]);
    });
  });
}

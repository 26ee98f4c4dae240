/** One real node as a child process, and a wire to it that can be cut. Ends only the process that it started. */

import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import net from "node:net";
import os from "node:os";
import path from "node:path";

const START_MS = 20_000;

export class Node {
  #binary;
  #child = null;
  #log = "";
  #data = null;
  #settings;
  /** `http://127.0.0.1:PORT`; the port stays the same over restarts. */
  origin = null;

  /** `durable` keeps its journal over a crash; `remote` is the address of the node that it calls `reactive`. */
  constructor(binary, { durable = false, remote = "" } = {}) {
    this.#binary = binary;
    this.#settings = { MILLSTREAM__JOURNAL__KIND: durable ? "embedded" : "memory", REACTIVE_SERVER_URL: remote };
  }

  async start() {
    const listen = this.origin === null ? "127.0.0.1:0" : new URL(this.origin).host;
    this.#data ??= await mkdtemp(path.join(os.tmpdir(), "millstream-clients-"));
    const child = spawn(this.#binary, ["serve", "--listen", listen, "--data-dir", this.#data], {
      env: { ...process.env, ...this.#settings },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#child = child;
    child.stderr.on("data", (chunk) => {
      this.#log = (this.#log + chunk).slice(-4000);
    });
    this.origin = await listening(child);
    return this;
  }

  /** `kill -9`: the node gets no chance to say goodbye. */
  crash() {
    return this.#end("SIGKILL");
  }

  /** `keep` leaves its data for another start. */
  async stop({ keep = false } = {}) {
    await this.#end("SIGTERM");
    if (!keep && this.#data !== null) await rm(this.#data, { recursive: true, force: true });
  }

  /** The end of what the node wrote to its log. */
  log() {
    return this.#log;
  }

  async #end(signal) {
    const child = this.#child;
    this.#child = null;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((resolve) => child.once("exit", resolve));
    child.kill(signal);
    await gone;
  }

  /** Sends JSON and answers with the parsed body; fails on a refusal. */
  async post(where, json) {
    const response = await fetch(this.origin + where, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(json),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`POST ${where}: ${response.status} ${text}`);
    return JSON.parse(text);
  }

  async get(where) {
    const response = await fetch(this.origin + where);
    if (!response.ok) throw new Error(`GET ${where}: ${response.status} ${await response.text()}`);
    return response.json();
  }
}

/** Passes bytes between a client and the node until it is cut; then a new connection may be made. */
export class Wire {
  #server;
  #open = new Set();
  #down = false;
  origin = null;

  async start(node) {
    const { hostname, port } = new URL(node.origin);
    this.#server = net.createServer((client) => {
      if (this.#down) return client.resetAndDestroy();
      const upstream = net.connect(Number(port), hostname);
      for (const [from, to] of [[client, upstream], [upstream, client]]) {
        this.#open.add(from);
        from.on("error", () => to.destroy());
        from.on("close", () => {
          this.#open.delete(from);
          to.destroy();
        });
        from.pipe(to);
      }
      return undefined;
    });
    await new Promise((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    this.origin = `http://127.0.0.1:${this.#server.address().port}`;
    return this;
  }

  cut() {
    for (const socket of this.#open) socket.resetAndDestroy();
  }

  /** Cuts it, and no client gets through until `up`. */
  down() {
    this.#down = true;
    this.cut();
  }

  up() {
    this.#down = false;
  }

  stop() {
    this.cut();
    return new Promise((resolve) => this.#server.close(resolve));
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
      seen += chunk;
      const line = /^listening on (http:\/\/\S+)$/m.exec(seen);
      if (line === null) return;
      clearTimeout(timer);
      resolve(line[1]);
    });
  });
}

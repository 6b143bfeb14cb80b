// A server of the built-in model, and a browser to look at it.

import { spawn } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

export const ROOT = fileURLToPath(new URL("../../../../", import.meta.url));
const PROGRAM = process.env.LONGCAT ?? path.join(ROOT, "target/debug/longcat");

/** Adapters of the built-in model, which any video can use. */
const ADAPTERS = path.join(ROOT, "crates/longcat-builtin/assets/lora");
/** An adapter of a model of another size. */
export const MISFIT = path.join(ROOT, "tests/golden/checkpoints/tiny/lora/cfg_step_lora.safetensors");
/** An adapter that fits. */
export const FITTING = path.join(ADAPTERS, "refinement_lora.safetensors");

async function freePort() {
  const listener = net.createServer().listen(0, "127.0.0.1");
  await once(listener, "listening");
  const { port } = listener.address();
  listener.close();
  await once(listener, "close");
  return port;
}

/** A server with a folder of its own. */
export class Server {
  /** Starts one, with further arguments for the program. */
  static async start(...more) {
    const server = new Server();
    server.more = more;
    server.folder = fs.mkdtempSync(path.join(os.tmpdir(), "longcat-browser-"));
    server.loras = path.join(server.folder, "loras");
    fs.mkdirSync(server.loras);
    fs.copyFileSync(path.join(ADAPTERS, "cfg_step_lora.safetensors"), path.join(server.loras, "few-steps.safetensors"));
    server.port = await freePort();
    server.url = `http://127.0.0.1:${server.port}`;
    await server.run();
    return server;
  }

  /** Starts the program; again after [kill]. */
  async run() {
    const args = ["serve", "--port", this.port, "--data", path.join(this.folder, "data"), "--lora-dir", this.loras, "--device", "cpu", ...this.more];
    // What the user has pulled is not offered.
    const env = { ...process.env, HF_HOME: path.join(this.folder, "hf"), HF_HUB_CACHE: "", HUGGINGFACE_HUB_CACHE: "" };
    this.program = spawn(PROGRAM, args.map(String), { stdio: ["ignore", "pipe", "pipe"], env });
    this.said = "";
    for (const stream of [this.program.stdout, this.program.stderr]) {
      stream.on("data", (data) => (this.said += data));
    }
    for (let tries = 0; tries < 300; tries += 1) {
      if (this.program.exitCode !== null) break;
      const health = await fetch(`${this.url}/health`).catch(() => null);
      if (health?.ok) return;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    throw new Error(`${PROGRAM} ${args.join(" ")} did not start: ${this.said}`);
  }

  /** Ends the program at once, as a loss of power does. */
  async kill() {
    this.program.kill("SIGKILL");
    if (this.program.exitCode === null) await once(this.program, "exit");
  }

  async stop() {
    await this.kill();
    fs.rmSync(this.folder, { recursive: true, force: true });
  }

  /** What the API says. */
  async api(path, options) {
    const response = await fetch(this.url + path, options);
    return response.json();
  }
}

export const openBrowser = () =>
  chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });

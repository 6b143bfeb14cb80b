// Screenshots: `node shots.mjs FOLDER`.

import fs from "node:fs";
import path from "node:path";
import { Server, openBrowser } from "./server.mjs";

const LONG = 120_000;
const folder = process.argv[2] ?? "shots";
fs.mkdirSync(folder, { recursive: true });

const PROMPTS = [
  "a red circle moves right", "a green star moves up", "a blue ring rotates on a white background",
  "a yellow triangle grows", "a purple square bounces on a black background", "a cyan cross moves left",
];

const server = await Server.start();
const browser = await openBrowser();
try {
  for (const [seed, prompt] of PROMPTS.entries()) {
    const body = JSON.stringify({ prompt, distill: true, seed });
    const { id } = await server.api("/v1/videos", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    for (let status = ""; status !== "completed"; ) {
      ({ status } = await server.api(`/v1/videos/${id}`));
      if (status === "failed") throw new Error(prompt);
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
  for (const colorScheme of ["light", "dark"]) {
    for (const [device, width, height, deviceScaleFactor] of [["desktop", 1280, 860, 1], ["phone", 390, 844, 2]]) {
      const context = await browser.newContext({ viewport: { width, height }, colorScheme, deviceScaleFactor });
      const page = await context.newPage();
      const shot = (name, fullPage = device === "phone") =>
        page.screenshot({ path: path.join(folder, `${name}-${device}-${colorScheme}.png`), fullPage });
      await page.goto(server.url);
      await page.waitForSelector("body.ready");
      await page.waitForLoadState("load");
      await page.waitForTimeout(500);
      await shot("page");

      const prompt = "a large red circle moves to the right";
      await page.getByRole("textbox", { name: "Prompt" }).fill(prompt);
      await page.getByRole("switch", { name: /^Fast/ }).setChecked(false);
      await page.getByRole("switch", { name: "few-steps" }).click();
      await page.getByRole("slider").focus();
      for (let presses = 0; presses < 15; presses += 1) await page.keyboard.press("ArrowLeft");
      await page.getByRole("spinbutton", { name: /^Frames( \d|$)/ }).fill("65");
      await page.getByRole("button", { name: "Make video" }).click();
      await page.getByText(/step [234]\d of 50/).waitFor({ timeout: LONG });
      await page.waitForFunction(() => document.querySelector("#jobs .screen.seen img")?.naturalWidth > 0, null, { timeout: LONG });
      await page.waitForTimeout(450);
      await shot("running");
      await page.getByRole("button", { name: `Open: ${prompt}` }).first().waitFor({ timeout: LONG });
      await page.locator("#gallery").scrollIntoViewIfNeeded();
      await shot("gallery");

      await page.getByRole("button", { name: `Open: ${PROMPTS[3]}` }).click();
      await page.waitForTimeout(600);
      await shot("viewer", false);
      await page.keyboard.press("Escape");
      for (const text of [PROMPTS[0], PROMPTS[3]]) await page.getByRole("checkbox", { name: `Compare: ${text}` }).check();
      await page.locator("#picked-go").click();
      await page.waitForTimeout(900);
      await shot("compare", false);
      await context.close();
    }
  }
} finally {
  await browser.close();
  await server.stop();
}

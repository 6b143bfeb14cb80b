// What screen readers and small windows need, in every state of the page.

import assert from "node:assert/strict";
import fs from "node:fs";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { MISFIT, Server, openBrowser } from "./server.mjs";

const AXE = fs.readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const LONG = 120_000;

let server, browser;
before(async () => {
  server = await Server.start();
  browser = await openBrowser();
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

for (const colorScheme of ["light", "dark"]) {
  for (const [device, viewport] of [["desktop", { width: 1280, height: 900 }], ["phone", { width: 360, height: 740 }]]) {
    test(`every state can be used: ${device}, ${colorScheme}`, async () => {
      // axe is put into the page from outside, which the policy forbids as it should.
      const context = await browser.newContext({ viewport, colorScheme, bypassCSP: true });
      const page = await context.newPage();
      const check = async (state) => {
        await page.evaluate(AXE);
        const { violations } = await page.evaluate(() => axe.run());
        const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.target.join(" ")).join(", ")}`);
        assert.deepEqual(found, [], state);
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(wide <= 0, `${state}: ${wide} pixels too wide`);
      };
      await page.goto(server.url);
      await page.waitForSelector("body.ready");
      await check("start");

      const text = `a red circle on a ${device} when it is ${colorScheme}`;
      await page.getByRole("textbox", { name: "Prompt" }).fill(text);
      await page.getByText("More settings").click();
      await page.getByRole("button", { name: "Make video" }).click();
      await page.locator("#jobs .job").first().waitFor();
      await check("running");
      await page.getByRole("button", { name: `Open: ${text}` }).waitFor({ timeout: LONG });
      await page.setInputFiles("#adapter-file", MISFIT);
      await page.locator("#adapter-error").waitFor();
      await page.getByRole("switch", { name: "few-steps" }).click();
      await check("an adapter that was refused");

      await page.getByRole("button", { name: `Open: ${text}` }).click();
      await check("one video");
      await page.getByRole("button", { name: "Refine this" }).click();
      await check("refining");
      await page.getByRole("button", { name: "Refine video" }).click();
      await page.locator("#gallery .card").filter({ hasText: text }).filter({ hasText: "refined" }).waitFor({ timeout: LONG });
      for (const box of await page.getByRole("checkbox", { name: `Compare: ${text}` }).all()) await box.check();
      await check("two chosen");
      await page.locator("#picked-go").click();
      await page.locator("#compare video").first().waitFor();
      await check("side by side");
      await context.close();
    });
  }
}

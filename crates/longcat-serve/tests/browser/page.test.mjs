// What users do with the page.

import assert from "node:assert/strict";
import fs from "node:fs";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { FITTING, MISFIT, Server, openBrowser } from "./server.mjs";

/** How long the miniature may take for a video on a busy machine. */
const LONG = 120_000;

let server, browser, context, page;
/** What the browser complains of: scripts that fail, what the policy forbids. */
let complaints;

before(async () => {
  server = await Server.start();
  browser = await openBrowser();
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

beforeEach(async () => {
  complaints = [];
  context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
  page = await context.newPage();
  page.setDefaultTimeout(15_000);
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("console", (message) => {
    const expected = /status of 4\d\d|ERR_CONNECTION|ERR_INCOMPLETE/;
    if (message.type() === "error" && !expected.test(message.text())) complaints.push(message.text());
  });
  await page.goto(server.url);
  await page.waitForSelector("body.ready");
});
afterEach(async () => {
  await context.close();
  assert.deepEqual(complaints, []);
});

// ---- what a user sees and does

const prompt = () => page.getByRole("textbox", { name: "Prompt", exact: true });
const make = (name = "Make video") => page.getByRole("button", { name, exact: true }).click();
const card = (text) => page.locator("#gallery .card").filter({ hasText: text });
const job = (text) => page.locator("#jobs .job").filter({ hasText: text });
const finished = (text) => page.getByRole("button", { name: `Open: ${text}`, exact: true }).first().waitFor({ timeout: LONG });
const open = (text) => page.getByRole("button", { name: `Open: ${text}`, exact: true }).first().click();
const viewer = () => page.getByRole("dialog");
const setting = (name) => viewer().locator("dl div", { has: page.locator("dt", { hasText: new RegExp(`^${name}$`) }) }).locator("dd");

/** Makes a short video. */
async function makeVideo(text) {
  await prompt().fill(text);
  await page.getByRole("spinbutton", { name: /^Frames( \d|$)/ }).fill("9");
  await make();
  await finished(text);
}

test("a prompt becomes a video that plays, with previews and progress on the way", async () => {
  const text = "a red circle moves right";
  await prompt().fill(text);
  await page.getByRole("switch", { name: /^Fast/ }).setChecked(false);
  await make();
  await job(text).waitFor();
  await job(text).getByText(/Denoising, step \d+ of 50/).waitFor({ timeout: LONG });
  await page.waitForFunction(() => document.querySelector("#jobs .screen.seen img")?.naturalWidth > 0, null, { timeout: LONG });
  assert.match(await page.title(), /^\d+ % · LongCat$/);
  await finished(text);
  await page.waitForFunction(() => document.querySelector("#status").textContent.startsWith("Finished"));

  await open(text);
  const clip = viewer().locator("video");
  await clip.evaluate((clip) => (clip.readyState > 1 ? 0 : new Promise((done) => clip.addEventListener("loadeddata", done))));
  assert.deepEqual(await clip.evaluate((clip) => [clip.videoWidth, clip.videoHeight]), [64, 64]);
  const at = () => clip.evaluate((clip) => clip.currentTime);
  const start = await at();
  await page.waitForFunction((start) => document.querySelector("#viewer video").currentTime !== start, start);
  for (const [name, value] of [["Prompt", text], ["Size", "64 × 64"], ["Length", /^17 frames/], ["Model", "built-in"]]) {
    const shown = await setting(name).textContent();
    assert.ok(value instanceof RegExp ? value.test(shown) : shown === value, `${name}: ${shown}`);
  }
  for (const [name, ending] of [["video", "mp4"], ["latents", "safetensors"], ["settings", "json"]]) {
    const download = page.waitForEvent("download");
    await viewer().getByRole("link", { name, exact: true }).click();
    const file = await (await download).path();
    assert.ok(fs.statSync(file).size > 0, ending);
  }
});

test("a job is cancelled and says so", async () => {
  const text = "a green star that nobody waits for";
  await prompt().fill(text);
  await page.getByRole("switch", { name: /^Fast/ }).setChecked(false);
  await page.getByRole("spinbutton", { name: /^Frames( \d|$)/ }).fill("49");
  await make();
  await page.getByRole("button", { name: `Cancel: ${text}` }).click();
  await card(text).getByText("Cancelled").waitFor({ timeout: LONG });
  assert.equal(await job(text).count(), 0);
  await card(text).getByRole("button", { name: "Remove" }).click();
  await card(text).waitFor({ state: "detached" });
});

test("an adapter is switched on, set by keyboard, and off again", async () => {
  const text = "a blue ring with an adapter";
  await page.getByRole("switch", { name: "few-steps" }).click();
  const slider = page.getByRole("slider", { name: /Strength of few-steps/ });
  await slider.focus();
  for (let presses = 0; presses < 10; presses += 1) await page.keyboard.press("ArrowLeft");
  assert.equal(await slider.inputValue(), "0.5");
  await page.getByRole("switch", { name: /^Fast/ }).setChecked(false);
  await page.getByText("More settings").click();
  await page.getByRole("spinbutton", { name: "Steps" }).fill("4");
  await makeVideo(text);
  await open(text);
  assert.match(await setting("Adapters").textContent(), /^few-steps.* 0\.5$/);
  await page.keyboard.press("Escape");

  await page.getByRole("switch", { name: "few-steps" }).click();
  assert.equal(await slider.count(), 0);
  await makeVideo("a blue ring without it");
  await open("a blue ring without it");
  assert.equal(await setting("Adapters").count(), 0);
});

test("two videos play side by side at the same time", async () => {
  for (const [text, seed] of [["a yellow square, first", "1"], ["a yellow square, second", "2"]]) {
    if (!(await page.locator("#more").evaluate((more) => more.open))) await page.getByText("More settings").click();
    await page.getByRole("spinbutton", { name: "Seed" }).fill(seed);
    await makeVideo(text);
    await page.getByRole("checkbox", { name: `Compare: ${text}` }).check();
  }
  await page.getByRole("region", { name: "Videos to compare" }).getByRole("button", { name: "Compare" }).click();
  const apart = () => page.evaluate(() => {
    const [a, b] = [...document.querySelectorAll("#compare video")];
    return { apart: Math.abs(a.currentTime - b.currentTime), at: a.currentTime, playing: !a.paused && !b.paused };
  });
  await page.waitForFunction(() => [...document.querySelectorAll("#compare video")].every((clip) => !clip.paused && clip.currentTime > 0));
  for (let looks = 0; looks < 20; looks += 1) {
    const now = await apart();
    assert.ok(now.apart < 0.15, `${now.apart} s apart`);
    await page.waitForTimeout(60);
  }
  await page.getByRole("button", { name: "Pause" }).click();
  await page.getByRole("slider", { name: "Time" }).focus();
  await page.keyboard.press("Home");
  await page.keyboard.press("ArrowRight");
  await page.waitForFunction(() => [...document.querySelectorAll("#compare video")].every((clip) => !clip.seeking));
  const paused = await apart();
  assert.equal(paused.playing, false);
  assert.ok(paused.apart < 0.01 && paused.at > 0.05 && paused.at < 0.09, JSON.stringify(paused));
  const rows = await page.locator("#compare tbody th").allTextContents();
  assert.deepEqual(rows, ["Prompt", "Seed"]);
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: "Clear" }).click();
});

test("a video is refined, and one is continued", async () => {
  const text = "a purple triangle grows";
  await makeVideo(text);
  await open(text);
  await page.getByRole("button", { name: "Refine this" }).click();
  assert.equal(await prompt().inputValue(), text);
  await make("Refine video");
  await card("refined").waitFor({ timeout: LONG });
  await card("refined").getByRole("button", { name: /^Open/ }).click();
  assert.equal(await setting("Size").textContent(), "128 × 128");
  assert.match(await setting("Length").textContent(), /^18 frames/);
  await page.keyboard.press("Escape");

  await open(text);
  await page.getByRole("button", { name: "Continue this" }).click();
  await make("Continue video");
  await card("continued").waitFor({ timeout: LONG });
  await page.getByRole("button", { name: "Remove", exact: true }).first().click();
  assert.equal(await page.getByRole("button", { name: "Make video" }).count(), 1);
});

test("an adapter that does not fit is refused with the reason, and one that fits is taken", async () => {
  const chooser = page.waitForEvent("filechooser");
  await page.getByText("Upload", { exact: true }).click();
  await (await chooser).setFiles(MISFIT);
  const why = page.locator("#adapter-error");
  await why.waitFor();
  const text = await why.textContent();
  assert.match(text, /cfg_step_lora\.safetensors/);
  assert.match(text, /blocks\.|shape|\[\d+/, text);
  assert.equal(await page.getByRole("switch", { name: /cfg_step_lora/ }).count(), 0);
  await why.getByRole("button", { name: "Dismiss" }).click();
  await why.waitFor({ state: "hidden" });

  await page.setInputFiles("#adapter-file", FITTING);
  const added = page.getByRole("switch", { name: /refinement_lora/ });
  await added.waitFor();
  assert.equal(await added.isChecked(), true);
  await page.getByRole("button", { name: /^Remove refinement_lora/ }).click();
  await added.waitFor({ state: "detached" });
});

test("a picture that is dropped begins the video", async () => {
  const picture = await page.evaluateHandle(async () => {
    const canvas = new OffscreenCanvas(64, 64);
    const draw = canvas.getContext("2d");
    draw.fillStyle = "white";
    draw.fillRect(0, 0, 64, 64);
    draw.fillStyle = "red";
    draw.fillRect(20, 20, 20, 20);
    const data = new DataTransfer();
    data.items.add(new File([await canvas.convertToBlob()], "square.png", { type: "image/png" }));
    return data;
  });
  await page.dispatchEvent("#drop", "drop", { dataTransfer: picture });
  await page.getByText("square.png", { exact: true }).waitFor();
  assert.equal(await page.getByLabel("Size").inputValue(), "");
  const text = "the red square moves right";
  await makeVideo(text);
  await card(text).getByText("from an image").waitFor();

  await open(text);
  await page.getByRole("button", { name: "Make again" }).click();
  await page.getByText("the same upload as before").waitFor();
  await make();
  await page.waitForFunction((text) => [...document.querySelectorAll("#gallery h3")].filter((h) => h.textContent === text).length === 2, text, { timeout: LONG });
  const list = await server.api("/v1/videos");
  const [again, first] = list.data.filter((video) => video.prompt === text);
  assert.equal(again.settings.seed, first.settings.seed);
  const file = async ({ id }) => Buffer.from(await (await fetch(`${server.url}/v1/videos/${id}/content`)).arrayBuffer());
  assert.ok((await file(again)).equals(await file(first)), "the same settings make the same file");
});

test("an answer that comes after its events undoes nothing", async () => {
  const text = "an orange star, told of late";
  let answered = false;
  await page.route("**/v1/videos", async (route) => {
    if (route.request().method() !== "POST") return route.continue();
    const response = await route.fetch();
    const { id } = await response.json();
    for (let status = ""; status !== "completed"; ({ status } = await server.api(`/v1/videos/${id}`))) {
      await page.waitForTimeout(100);
    }
    await route.fulfill({ response });
    answered = true;
  });
  await makeVideo(text);
  while (!answered) await page.waitForTimeout(100);
  await page.waitForTimeout(300);
  assert.equal(await job(text).count(), 0);
  assert.equal(await card(text).count(), 1);
});

test("prompts one after another make a long video", async () => {
  await prompt().fill("a cyan ring moves up");
  await page.getByRole("button", { name: "Add a prompt" }).click();
  await make();
  await page.getByText("Prompt 2 is empty: say what the video shows.").waitFor();
  await page.keyboard.type("a cyan ring moves down");
  await page.getByRole("spinbutton", { name: /^Frames( \d|$)/ }).fill("9");
  await page.keyboard.press("Control+Enter");
  await finished("a cyan ring moves up");
  await open("a cyan ring moves up");
  assert.equal(await setting("Prompt 2").textContent(), "a cyan ring moves down");
});

test("what cannot be is refused in its place", async () => {
  await make();
  assert.equal(await prompt().getAttribute("aria-invalid"), "true");
  await page.getByText("Say what the video shows.").waitFor();
  await page.keyboard.type("x");
  assert.equal(await prompt().getAttribute("aria-invalid"), null);
  const frames = page.getByRole("spinbutton", { name: /^Frames( \d|$)/ });
  await frames.fill("16");
  await make();
  await page.getByText("16 will not do; 17 will.").waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), "frames");
  await page.setInputFiles("#file", { name: "notes.txt", mimeType: "text/plain", buffer: Buffer.from("x") });
  await page.getByText("notes.txt is neither a picture nor a video that can be read.").waitFor();
  await page.setInputFiles("#file", { name: "broken.png", mimeType: "image/png", buffer: Buffer.from("not a picture") });
  await frames.fill("17");
  await make();
  await page.locator("#input-error, #form-error").filter({ hasText: /\w/ }).first().waitFor();
});

test("the page works by keyboard alone", async () => {
  const text = "a white cross by keyboard";
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Go to the videos");
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.tagName), "TEXTAREA");
  await page.keyboard.type(text);
  await page.keyboard.press("Control+Enter");
  await finished(text);
  const opener = page.getByRole("button", { name: `Open: ${text}`, exact: true });
  for (let tabs = 0; tabs < 60; tabs += 1) {
    if (await opener.evaluate((opener) => opener === document.activeElement)) break;
    await page.keyboard.press("Tab");
    const seen = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle !== "none" || document.activeElement.matches("input.hidden, video, body"));
    assert.ok(seen, "what has the focus is seen");
  }
  await page.keyboard.press("Enter");
  await viewer().waitFor();
  await page.keyboard.press("Escape");
  assert.ok(await opener.evaluate((opener) => opener === document.activeElement), "the focus comes back");
});

test("a server with a token asks for it once", async () => {
  const token = "open-sesame-open-sesame";
  const guarded = await Server.start("--token", token);
  try {
    await page.goto(guarded.url);
    for (const [given, place] of [["wrong", "/?token=wrong"], [token, "/"]]) {
      await page.getByLabel("Token").fill(given);
      await page.getByRole("button", { name: "Open" }).click();
      await page.waitForURL(guarded.url + place);
    }
    await page.waitForSelector("body.ready #videos");
    await page.goto(guarded.url);
    await page.waitForSelector("body.ready #videos");
  } finally {
    await guarded.stop();
  }
});

test("a server that was killed is found again with all that it had", async () => {
  const text = "a pink circle before the fall";
  await makeVideo(text);
  await server.kill();
  await page.getByText("The server does not answer.").waitFor();
  await server.run();
  await page.getByText("The server does not answer.").waitFor({ state: "hidden", timeout: 30_000 });
  await open(text);
  await viewer().locator("video").waitFor();
});

// Two videos side by side, frame by frame at the same time.

import * as api from "./api.js";
import * as store from "./store.js";
import { $, announce, h, mayMove } from "./dom.js";
import { number, settings } from "./words.js";

const dialog = $("compare");
/** Ids of the chosen videos, at most two. */
let picked = [];
let changed = () => {};

export const isPicked = (id) => picked.includes(id);
/** Calls `listener` with an id and whether it is chosen now. */
export const whenPicked = (listener) => (changed = listener);

/** Chooses a video or not; a third one takes the place of the first. */
export function pick(id, on) {
  if (on === isPicked(id)) return;
  if (on) picked.push(id);
  else picked = picked.filter((other) => other !== id);
  if (picked.length > 2) changed(picked.shift(), false);
  changed(id, on);
  $("picked").hidden = picked.length === 0;
  $("picked-go").hidden = picked.length < 2;
  const text = picked.length === 2 ? "Two videos chosen." : "Choose a second video to compare.";
  $("picked-text").textContent = text;
  if (picked.length > 0) announce(text);
}

/** How far apart two videos may be, in seconds, before one is moved: about a frame. */
const APART = 0.05;

/** Two videos on one clock, that of the longer one. The shorter one waits at its end. */
class Pair {
  constructor(clips, onTime) {
    this.clips = clips;
    this.onTime = onTime;
    this.playing = false;
  }

  get leader() {
    const [a, b] = this.clips;
    return (b.duration || 0) > (a.duration || 0) ? b : a;
  }

  get seconds() {
    return this.leader.duration || 0;
  }

  play() {
    if (this.playing || this.seconds === 0) return;
    this.playing = true;
    if (this.leader.ended) this.seek(0);
    this.run();
    const follow = () => {
      if (!this.playing) return;
      if (this.leader.ended) {
        this.seek(0);
        this.run();
      }
      this.hold();
      this.onTime(this.leader.currentTime);
      requestAnimationFrame(follow);
    };
    requestAnimationFrame(follow);
  }

  run() {
    for (const clip of this.clips) clip.play().catch(() => {});
  }

  /** Moves whichever has run away. */
  hold() {
    const at = this.leader.currentTime;
    for (const clip of this.clips) {
      const time = Math.min(at, clip.duration || 0);
      const away = Math.abs(clip.currentTime - time) > APART;
      if (away && !clip.seeking && !this.leader.seeking) clip.currentTime = time;
    }
  }

  pause() {
    this.playing = false;
    for (const clip of this.clips) clip.pause();
  }

  seek(seconds) {
    for (const clip of this.clips) clip.currentTime = Math.min(seconds, clip.duration || 0);
    this.onTime(seconds);
  }

  speed(rate) {
    for (const clip of this.clips) clip.playbackRate = rate;
  }
}

/** Rows of settings that differ between two videos. */
function differences(videos) {
  const tables = videos.map((video) => new Map(settings(video, store.adapters)));
  const names = [...new Set(tables.flatMap((table) => [...table.keys()]))];
  return names
    .filter((name) => !["Made", "Took"].includes(name))
    .map((name) => [name, ...tables.map((table) => table.get(name) ?? "–")])
    .filter(([, a, b]) => a !== b);
}

function open() {
  const videos = picked.map((id) => store.videos.get(id));
  const clips = videos.map((video) => {
    const clip = h("video", { src: api.fileOf(video.id, "content"), preload: "auto", playsinline: true, "aria-label": video.prompt });
    clip.muted = true;
    const [width, height] = video.size.split("x").map(Number);
    clip.style.aspectRatio = `${width} / ${height}`;
    return clip;
  });

  const step = String(1 / Math.max(...videos.map((video) => video.fps)));
  const scrub = h("input", { type: "range", min: "0", max: "1", step, value: "0", "aria-label": "Time" });
  const time = h("output", { class: "quiet" });
  const pair = new Pair(clips, (at) => {
    scrub.max = String(pair.seconds);
    scrub.value = String(at);
    scrub.style.setProperty("--at", at / (pair.seconds || 1));
    scrub.setAttribute("aria-valuetext", `${number(at)} of ${number(pair.seconds)} seconds`);
    time.textContent = `${at.toFixed(1)} / ${pair.seconds.toFixed(1)} s`;
  });
  const play = h("button", { type: "button", class: "primary" }, "Play");
  const setPlaying = (on) => {
    if (on) pair.play();
    else pair.pause();
    play.textContent = pair.playing ? "Pause" : "Play";
  };
  play.addEventListener("click", () => setPlaying(!pair.playing));
  scrub.addEventListener("input", () => {
    setPlaying(false);
    pair.seek(Number(scrub.value));
  });
  const speed = h("select", { "aria-label": "Speed", change: () => pair.speed(Number(speed.value)) },
    ...[["0.25", "¼ speed"], ["0.5", "½ speed"], ["1", "Full speed"]].map(([value, text]) => h("option", { value }, text)));
  speed.value = "1";
  const frames = clips.map((clip, i) => h("figure", {}, h("div", { class: "screen" }, clip), h("figcaption", {}, h("strong", {}, "AB"[i]), ` ${videos[i].prompt}`)));

  const rows = differences(videos);
  const table = rows.length === 0 ? h("p", { class: "quiet" }, "Both were made with the same settings.") :
    h("table", {}, h("caption", {}, "What differs"),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, h("span", { class: "hidden" }, "Setting")), h("th", { scope: "col" }, "A"), h("th", { scope: "col" }, "B"))),
      h("tbody", {}, ...rows.map(([name, a, b]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, a), h("td", {}, b)))));

  const close = h("button", { type: "button", class: "plain close", click: () => dialog.close() }, "Close");
  dialog.replaceChildren(
    h("header", {}, h("h2", { id: "compare-title" }, "Side by side"), close),
    h("div", { class: "side" }, ...frames),
    h("div", { class: "player" }, play, scrub, time, speed),
    table,
  );
  dialog.showModal();
  play.focus();
  const ready = clips.map((clip) => new Promise((resolve) => {
    clip.addEventListener("loadeddata", resolve, { once: true });
    clip.addEventListener("error", resolve, { once: true });
  }));
  Promise.all(ready).then(() => {
    pair.seek(0);
    if (dialog.open && mayMove()) setPlaying(true);
  });
  dialog.addEventListener("close", () => {
    pair.pause();
    clips.forEach((clip) => clip.removeAttribute("src"));
  }, { once: true });
}

export function start() {
  $("picked-go").addEventListener("click", open);
  $("picked-clear").addEventListener("click", () => {
    for (const id of [...picked]) pick(id, false);
    $("videos").focus({ preventScroll: true });
  });
  store.subscribe("removed", (id) => pick(id, false));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === " " && !["BUTTON", "SELECT", "INPUT"].includes(event.target.tagName)) {
      event.preventDefault();
      dialog.querySelector(".player button").click();
    }
  });
}

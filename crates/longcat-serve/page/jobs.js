// Jobs that are not finished: what they are coming to, how far they are, and cancelling them.

import * as api from "./api.js";
import * as store from "./store.js";
import { $, announce, h, show } from "./dom.js";
import { doing, left, summary } from "./words.js";

/** The rows, by id. */
const rows = new Map();
/** Waiting jobs that are shown before somebody asks for all. */
const FEW = 3;
let showsAll = false;
/** What part of each job was last announced, in quarters. */
const quarters = new Map();

function makeRow(video) {
  const picture = h("img", { alt: "", decoding: "async" });
  const frame = h("div", { class: "screen" }, picture);
  const prompt = h("h3", {}, video.prompt);
  const about = h("p", { class: "quiet" }, summary(video, store.adapters));
  const bar = h("progress", { max: "100", "aria-label": "Progress" });
  const stage = h("p", { class: "stage" });
  const time = h("p", { class: "left" });
  const error = h("p", { class: "error", role: "alert", hidden: true });
  const cancel = h("button", { type: "button", class: "plain", "aria-label": `Cancel: ${video.prompt}` }, "Cancel");
  cancel.addEventListener("click", async () => {
    cancel.disabled = true;
    cancel.textContent = "Stopping…";
    try {
      await api.remove(video.id);
    } catch (problem) {
      cancel.disabled = false;
      cancel.textContent = "Cancel";
      show(error, problem.message);
    }
  });
  const text = h("div", { class: "told" }, prompt, about, bar, h("div", { class: "line" }, stage, time), error, cancel);
  const item = h("li", { class: "job", "data-id": video.id }, frame, text);
  return { item, frame, picture, bar, stage, time };
}

/** Shows the last preview, once it is there: no flicker between two. */
function preview(row, { url, width, height }) {
  if (row.url === url) return;
  row.url = url;
  if (width && height) row.frame.style.aspectRatio = `${width} / ${height}`;
  const next = new Image();
  next.decoding = "async";
  next.alt = "Preview of what the video is coming to";
  next.addEventListener("load", () => {
    if (row.url !== url) return;
    row.picture.replaceWith(next);
    row.picture = next;
    row.frame.classList.add("seen");
  });
  next.src = url;
}

function update(row, video, before) {
  const waiting = video.status === "queued";
  row.item.classList.toggle("waiting", waiting);
  const [width, height] = video.size.split("x").map(Number);
  if (!row.url && width && height) row.frame.style.aspectRatio = `${width} / ${height}`;
  if (waiting) row.bar.removeAttribute("value");
  else row.bar.value = video.progress;
  row.bar.hidden = waiting;
  row.stage.textContent = doing(video, before);
  row.time.textContent = waiting ? "" : left(video);
  const seen = store.previews.get(video.id);
  if (seen) preview(row, seen);
  tellQuarter(video);
}

function tellQuarter(video) {
  const quarter = Math.floor(video.progress / 25);
  const before = quarters.get(video.id);
  quarters.set(video.id, quarter);
  if (before === undefined || quarter <= before || quarter > 3) return;
  const told = [`${25 * quarter} per cent`, left(video)].filter(Boolean).join(", ");
  announce(`${told}: ${video.prompt}`);
}

/** Says how a job has ended. */
function tellEnd({ status, prompt, error }) {
  const ends = { completed: "Finished", failed: "Failed", cancelled: "Cancelled" };
  announce(`${ends[status]}: ${prompt}${error ? `. ${error.message}` : ""}`);
}

function render() {
  const active = store.sorted().filter(store.isActive).reverse();
  // Those that run, then those that wait, in the order in which they will be made.
  const place = (video) => (video.status === "queued" ? 1 + (video.position ?? 0) : 0);
  active.sort((a, b) => place(a) - place(b));
  const ids = new Set(active.map((video) => video.id));
  for (const [id, { item }] of rows) {
    if (ids.has(id)) continue;
    const hadFocus = item.contains(document.activeElement);
    item.remove();
    rows.delete(id);
    quarters.delete(id);
    if (hadFocus) $("videos").focus({ preventScroll: true });
  }
  active.forEach((video, i) => {
    if (!rows.has(video.id)) rows.set(video.id, makeRow(video));
    const row = rows.get(video.id);
    row.item.hidden = false;
    update(row, video, i);
    // Moving an element takes the focus away, so only those that are not in their place.
    const there = $("jobs").children[i];
    if (there !== row.item) $("jobs").insertBefore(row.item, there ?? null);
  });
  const waiting = active.filter((video) => video.status === "queued");
  const few = showsAll || waiting.length <= FEW + 1 ? waiting.length : FEW;
  waiting.forEach((video, i) => (rows.get(video.id).item.hidden = i >= few));
  $("waiting").hidden = few === waiting.length;
  $("waiting").textContent = `Show ${waiting.length - few} more that wait`;
  $("now").hidden = active.length === 0;
  const running = active.find((video) => video.status === "in_progress");
  document.title = running ? `${Math.round(running.progress)} % · LongCat` : "LongCat";
}

export function start() {
  store.subscribe("video", ({ video, before }) => {
    render();
    if (before && store.isActive(before) && !store.isActive(video)) tellEnd(video);
  });
  store.subscribe("removed", render);
  store.subscribe("list", render);
  $("waiting").addEventListener("click", () => {
    showsAll = true;
    const first = $("jobs").querySelector(":scope > [hidden] button");
    render();
    first?.focus();
  });
  render();
}

// Videos that are finished, and jobs that came to nothing.

import * as api from "./api.js";
import * as compose from "./compose.js";
import * as compare from "./compare.js";
import * as store from "./store.js";
import * as viewer from "./viewer.js";
import { $, announce, h, mayMove, show } from "./dom.js";
import { summary } from "./words.js";

/** The cards, by id. */
const cards = new Map();

/** A picture that plays while it is pointed at or has the focus. */
function screen(video) {
  const [width, height] = video.size.split("x").map(Number);
  const poster = video.files.thumbnail ? api.fileOf(video.id, "thumbnail") : undefined;
  const clip = h("video", { preload: "none", poster, muted: true, loop: true, playsinline: true, tabindex: "-1", "aria-hidden": "true" });
  clip.muted = true;
  if (!poster) {
    clip.preload = "metadata";
    clip.src = api.fileOf(video.id, "content");
  }
  const box = h("div", { class: "screen" }, clip);
  box.style.aspectRatio = `${width} / ${height}`;
  const play = () => {
    if (!mayMove()) return;
    clip.src ||= api.fileOf(video.id, "content");
    clip.play().catch(() => {});
  };
  const stop = () => {
    clip.pause();
    if (clip.currentTime > 0) clip.currentTime = 0;
  };
  return { box, play, stop };
}

function finishedCard(video) {
  const { box, play, stop } = screen(video);
  const open = h("button", { type: "button", class: "open", "aria-label": `Open: ${video.prompt}`, click: () => viewer.open(video.id) }, box);
  for (const [name, listener] of [["pointerenter", play], ["focus", play], ["pointerleave", stop], ["blur", stop]]) {
    open.addEventListener(name, listener);
  }
  const pick = h("input", { type: "checkbox", "aria-label": `Compare: ${video.prompt}`, change: () => compare.pick(video.id, pick.checked) });
  pick.checked = compare.isPicked(video.id);
  const foot = h("div", { class: "line" }, h("p", { class: "quiet" }, summary(video, store.adapters)), h("label", { class: "pick" }, pick, "Compare"));
  return h("li", { class: "card", "data-id": video.id }, open, h("h3", {}, video.prompt), foot);
}

function endedCard(video) {
  const failed = video.status === "failed";
  const error = h("p", { class: "error", role: "alert", hidden: true });
  const again = h("button", { type: "button", class: "plain", "aria-label": `Make again: ${video.prompt}`, click: () => compose.makeAgain(video) }, "Make again");
  const remove = h("button", { type: "button", class: "plain", "aria-label": `Remove: ${video.prompt}` }, "Remove");
  remove.addEventListener("click", () => removeVideo(video.id).catch((problem) => show(error, problem.message)));
  const why = failed ? h("p", { class: "problem" }, video.error?.message ?? "It failed.") : h("p", { class: "quiet" }, "Cancelled");
  const card = h("li", { class: `card ${video.status}`, "data-id": video.id }, h("h3", {}, video.prompt), why, error, h("div", { class: "line" }, again, remove));
  return card;
}

/** Removes a video with its files. */
export async function removeVideo(id) {
  await api.remove(id);
  compare.pick(id, false);
  store.forget(id);
  announce("Removed.");
}

function render() {
  const finished = store.sorted().filter((video) => !store.isActive(video));
  const ids = new Set(finished.map((video) => video.id));
  for (const [id, card] of cards) {
    if (ids.has(id)) continue;
    const hadFocus = card.contains(document.activeElement);
    const next = card.nextElementSibling ?? card.previousElementSibling;
    card.remove();
    cards.delete(id);
    if (hadFocus) (next?.querySelector("button") ?? $("videos")).focus();
  }
  finished.forEach((video, i) => {
    if (!cards.has(video.id)) cards.set(video.id, video.status === "completed" ? finishedCard(video) : endedCard(video));
    const there = $("gallery").children[i];
    const card = cards.get(video.id);
    if (there !== card) $("gallery").insertBefore(card, there ?? null);
  });
  $("empty").hidden = store.videos.size > 0;
  $("older").hidden = !store.hasOlder;
}

export function start() {
  for (const kind of ["removed", "list"]) store.subscribe(kind, render);
  store.subscribe("video", ({ video, before }) => {
    if (!before || store.isActive(before) !== store.isActive(video)) render();
  });
  $("older").addEventListener("click", () => store.refreshOlder().catch((problem) => announce(problem.message)));
  compare.whenPicked((id, picked) => {
    const box = cards.get(id)?.querySelector(".pick input");
    if (box) box.checked = picked;
  });
  render();
}

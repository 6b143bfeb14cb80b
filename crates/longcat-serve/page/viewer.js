// One video, with everything that is known of it and everything that can be done with it.

import * as api from "./api.js";
import * as compare from "./compare.js";
import * as compose from "./compose.js";
import * as gallery from "./gallery.js";
import * as store from "./store.js";
import { $, h, mayMove, show } from "./dom.js";
import { settings } from "./words.js";

const dialog = $("viewer");

/** Pairs of a name and a text as a list. */
export const list = (pairs) =>
  h("dl", {}, ...pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));

export function open(id) {
  const video = store.videos.get(id);
  const close = () => dialog.close();
  const then = (action) => () => {
    close();
    action();
  };
  const clip = h("video", {
    src: api.fileOf(id, "content"), poster: video.files.thumbnail ? api.fileOf(id, "thumbnail") : undefined,
    controls: true, loop: true, playsinline: true, "aria-label": video.prompt,
  });
  clip.muted = true;
  clip.autoplay = mayMove();
  const [width, height] = video.size.split("x").map(Number);
  clip.style.aspectRatio = `${width} / ${height}`;

  const button = (text, action) => h("button", { type: "button", click: action }, text);
  const actions = h("div", { class: "actions" }, button("Make again", then(() => compose.makeAgain(video))));
  if (store.options.features.refine && !video.settings.refine && video.mode !== "refine") {
    actions.append(button("Refine this", then(() => compose.goOnFrom(video, "refine"))));
  }
  actions.append(
    button("Continue this", then(() => compose.goOnFrom(video, "continue"))),
    button("Compare", then(() => compare.pick(id, true))),
  );

  const file = (name, text, ending) => h("a", { href: api.fileOf(id, name), download: `${id}${ending}` }, text);
  const files = h("p", { class: "files" }, "Download ", file("content", "video", ".mp4"));
  if (video.files.latents) files.append(file("latents", "latents", ".safetensors"));
  files.append(file("settings", "settings", ".json"));

  const error = h("p", { class: "error", role: "alert", hidden: true });
  const remove = h("button", { type: "button", class: "plain danger" }, "Delete");
  remove.addEventListener("click", async () => {
    // Asked in the button itself: a second press within a few seconds.
    if (!remove.classList.contains("sure")) {
      remove.classList.add("sure");
      remove.textContent = "Delete for good?";
      setTimeout(() => {
        remove.classList.remove("sure");
        remove.textContent = "Delete";
      }, 4000);
      return;
    }
    try {
      await gallery.removeVideo(id);
      close();
    } catch (problem) {
      show(error, problem.message);
    }
  });

  const source = video.settings.from && store.videos.get(video.settings.from);
  const pairs = settings(video, store.adapters);
  if (source) pairs.splice(2, 0, ["Goes on from", source.prompt]);
  const warnings = video.warnings.map((warning) => h("p", { class: "note" }, warning));
  dialog.replaceChildren(
    h("header", {}, h("h2", { id: "viewer-title" }, video.prompt), h("button", { type: "button", class: "plain close", click: close }, "Close")),
    h("div", { class: "columns" }, h("div", { class: "screen" }, clip), h("div", { class: "told" }, actions, ...warnings, list(pairs), files, error, remove)),
  );
  dialog.showModal();
}

export function start() {
  dialog.addEventListener("close", () => {
    // Stops the video and frees what it holds.
    dialog.querySelector("video")?.removeAttribute("src");
    dialog.replaceChildren();
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
}

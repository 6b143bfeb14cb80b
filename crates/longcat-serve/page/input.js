// What a video begins from: an upload, or an earlier video.

import { $, announce, h, show } from "./dom.js";
import { fileOf } from "./api.js";
import { bytes } from "./words.js";
import * as store from "./store.js";

const PICTURES = /^image\/(png|jpeg|webp|bmp)$/;
const MOVING = /^(video\/.*|image\/gif)$/;

/** `{ kind: "image" | "video", file }`, `{ kind, from }`, `{ kind, inputFrom }`, or nothing. */
let current = null;
let shown = null;
let changed = () => {};

export const get = () => current;

/** `image`, `continue`, `refine`, or `text` without anything. */
export function mode() {
  if (!current) return "text";
  if (current.kind === "image") return "image";
  return document.querySelector("[name=video-mode]:checked").value;
}

export function set(input, videoMode) {
  current = input;
  if (videoMode) document.querySelector(`[name=video-mode][value=${videoMode}]`).checked = true;
  render();
  changed();
}

/** Takes a file if it is of a kind that a video can begin from; whether it is. */
export function takeFile(file) {
  const name = file.name.toLowerCase();
  const kind = PICTURES.test(file.type) ? "image" : MOVING.test(file.type) || /\.(mkv|mov)$/.test(name) ? "video" : null;
  if (!kind) {
    show($("input-error"), `${file.name} is neither a picture nor a video that can be read.`);
    return false;
  }
  const { image_bytes, video_bytes } = store.options.limits;
  const most = kind === "image" ? image_bytes : video_bytes;
  if (file.size > most) {
    show($("input-error"), `${file.name} has ${bytes(file.size)}; at most ${bytes(most)} can be uploaded.`);
    return false;
  }
  set({ kind, file });
  announce(`The video begins from ${file.name}.`);
  return true;
}

function render() {
  if (shown) URL.revokeObjectURL(shown);
  shown = null;
  show($("input-error"), "");
  const box = $("input");
  box.replaceChildren();
  box.hidden = !current;
  $("drop").hidden = Boolean(current);
  $("video-mode").hidden = current?.kind !== "video";
  if (!current) return;

  let [source, name] = ["", ""];
  if (current.file) {
    shown = URL.createObjectURL(current.file);
    [source, name] = [shown, current.file.name];
  } else if (current.from) {
    source = fileOf(current.from, "content");
    name = store.videos.get(current.from)?.prompt ?? "an earlier video";
  } else {
    [source, name] = [fileOf(current.inputFrom, "input"), "the same upload as before"];
  }
  const isPicture = current.kind === "image" || current.file?.type === "image/gif";
  const picture = isPicture
    ? h("img", { src: source, alt: "" })
    : h("video", { src: source, preload: "metadata", playsinline: true, tabindex: "-1" });
  // A kind of video that the browser cannot show may still be one that the server reads.
  picture.addEventListener("error", () => picture.classList.add("unseen"));
  const remove = h("button", { type: "button", class: "plain", click: () => (set(null), $("file").focus()) }, "Remove");
  box.append(picture, h("p", {}, name), remove);
}

/** Sets up the field; `listener` is called when the input or what is done with it changes. */
export function start(listener) {
  changed = listener;
  const file = $("file");
  file.addEventListener("change", () => {
    if (file.files[0]) takeFile(file.files[0]);
    file.value = "";
  });
  for (const radio of document.querySelectorAll("[name=video-mode]")) radio.addEventListener("change", () => changed());
}

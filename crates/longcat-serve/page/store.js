// The jobs and videos that the page knows, as the server tells of them.

import * as api from "./api.js";

const changes = new EventTarget();

/** All of them, by id. */
export const videos = new Map();
/** Adapters, by id. */
export const adapters = new Map();
/** The last preview of each job: `{ url, width, height }`. */
export const previews = new Map();
/** What can be asked for; set before anything is shown. */
export let options = null;
/** Whether there are older videos on the server. */
export let hasOlder = false;
let oldest = null;
/** Jobs that events told of since the list was last asked for: what an answer says of them may be older. */
const heard = new Set();

/** Calls `listener` with what changed: `video`, `removed`, `adapters` or `list`. */
export function subscribe(kind, listener) {
  changes.addEventListener(kind, (event) => listener(event.detail));
}
const tell = (kind, detail) => changes.dispatchEvent(new CustomEvent(kind, { detail }));

export const isActive = (video) => video.status === "queued" || video.status === "in_progress";

/** Videos, the newest first. */
export const sorted = () =>
  [...videos.values()].sort((a, b) => b.created_at - a.created_at || (a.id < b.id ? 1 : -1));

export async function start() {
  options = await api.options();
  await Promise.all([refresh(), refreshAdapters()]);
}

/** Asks for the newest videos again, as after a lost connection, and for what is under way however old it is. */
export async function refresh() {
  heard.clear();
  const [page, running, waiting] = await Promise.all([
    api.list(),
    api.list({ status: "in_progress", limit: 100 }),
    api.list({ status: "queued", order: "asc", limit: 100 }),
  ]);
  const told = new Map([...running.data, ...waiting.data, ...page.data].map((video) => [video.id, video]));
  const last = page.data.at(-1);
  for (const video of [...videos.values()]) {
    if (heard.has(video.id) || told.has(video.id)) continue;
    // What should be on this page of the list and is not is gone; what was under way has ended.
    if (!last || video.created_at > last.created_at) forget(video.id);
    else if (isActive(video)) api.video(video.id).then(put, () => forget(video.id));
  }
  for (const video of told.values()) {
    if (!heard.has(video.id)) put(video);
  }
  if (oldest === null) [oldest, hasOlder] = [page.last_id, page.has_more];
  tell("list");
}

/** Asks for the videos before those that are known. */
export async function refreshOlder() {
  const page = await api.list(oldest ? { after: oldest } : {});
  page.data.forEach(add);
  [oldest, hasOlder] = [page.last_id ?? oldest, page.has_more];
  tell("list");
}

export async function refreshAdapters() {
  const page = await api.adapters();
  adapters.clear();
  for (const adapter of page.data) adapters.set(adapter.id, adapter);
  tell("adapters");
}

/** Takes up a video, unless more is known of it already. */
export function add(video) {
  heard.add(video.id);
  if (!videos.has(video.id)) put(video);
}

function put(video) {
  const before = videos.get(video.id);
  videos.set(video.id, video);
  if (!isActive(video)) previews.delete(video.id);
  else if (video.files.preview && !previews.has(video.id)) {
    const [width, height] = video.size.split("x").map(Number);
    previews.set(video.id, { url: `${api.fileOf(video.id, "preview")}?step=${video.step ?? 0}`, width, height });
  }
  tell("video", { video, before });
}

export function forget(id) {
  if (id === oldest) {
    // The server goes on after a video that it has.
    const all = sorted();
    oldest = all[all.findIndex((video) => video.id === id) - 1]?.id ?? null;
  }
  if (!videos.delete(id)) return;
  previews.delete(id);
  tell("removed", id);
}

/** Follows the server; `on` has `open` and `lost`. */
export function follow(on) {
  api.follow({
    status: (video) => {
      heard.add(video.id);
      put(video);
    },
    step: ({ id, ...step }) => {
      heard.add(id);
      const video = videos.get(id);
      if (!video) api.video(id).then(add, () => {});
      else if (isActive(video)) put({ ...video, ...step, status: "in_progress" });
    },
    preview: ({ id, ...preview }) => {
      previews.set(id, preview);
      const video = videos.get(id);
      if (video) tell("video", { video, before: video });
    },
    removed: ({ id }) => forget(id),
    open: () => {
      on.open();
      // What happened until now was told to nobody.
      refresh().catch(() => {});
    },
    lost: on.lost,
  });
}

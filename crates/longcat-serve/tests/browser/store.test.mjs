// What the page knows of the server's list, without a browser.

import assert from "node:assert/strict";
import { test } from "node:test";

/** Videos of a server, the newest first. */
const kept = Array.from({ length: 50 }, (_, i) => ({ id: `v${50 - i}`, created_at: 50 - i, status: "completed", files: {} }));

globalThis.fetch = async (path) => {
  const query = new URL(path, "http://localhost").searchParams;
  const matching = kept.filter((video) => !query.has("status") || video.status === query.get("status"));
  const after = query.get("after");
  const at = matching.findIndex((video) => video.id === after);
  const rest = after === null ? matching : at < 0 ? [] : matching.slice(at + 1);
  const data = rest.slice(0, Number(query.get("limit")));
  const page = { data, has_more: rest.length > data.length, last_id: data.at(-1)?.id ?? null };
  return { ok: true, json: async () => page };
};

test("older videos are still found when the oldest one that is shown is removed", async () => {
  const store = await import("../../page/store.js");
  await store.refresh();
  assert.equal(store.videos.size, 40);
  const oldest = store.sorted().at(-1).id;
  kept.splice(kept.findIndex((video) => video.id === oldest), 1);
  store.forget(oldest);
  await store.refreshOlder();
  assert.deepEqual(store.sorted().map((video) => video.id), kept.map((video) => video.id));
});

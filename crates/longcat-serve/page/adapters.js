// Adapters: which there are, which are on, how strong, and uploading more.

import * as api from "./api.js";
import * as store from "./store.js";
import { $, announce, h, show } from "./dom.js";
import { bytes, number } from "./words.js";

/** What the user chose, by id: `{ on, strength, scope }`. */
const chosen = new Map();
/** The rows, by id. */
const rows = new Map();
let made = 0;

/** The adapters that are on, as a request names them. */
export const used = () =>
  [...chosen]
    .filter(([id, choice]) => choice.on && store.adapters.get(id)?.usable)
    .map(([id, { strength, scope }]) => ({ id, strength, ...(scope ? { scope } : {}) }));

/** Switches exactly these on; names those that are gone. */
export function use(uses) {
  chosen.clear();
  const gone = [];
  for (const { id, strength, scope } of uses) {
    if (store.adapters.get(id)?.usable) chosen.set(id, { on: true, strength: strength ?? 1, scope });
    else gone.push(id);
  }
  rows.clear();
  $("adapter-list").replaceChildren();
  render();
  return gone;
}

function describe(adapter) {
  const parts = [adapter.format, adapter.rank && `rank ${adapter.rank}`, adapter.layers && `${adapter.layers} layers`];
  return [...parts.filter(Boolean), bytes(adapter.bytes)].join(" · ");
}

function origin({ source }) {
  if (source === "pulled") return "pulled";
  return source === "upload" ? "uploaded" : "from the server's folder";
}

function row(adapter) {
  const id = `adapter-${(made += 1)}`;
  const choice = chosen.get(adapter.id) ?? { on: false, strength: 1 };
  chosen.set(adapter.id, choice);
  const output = h("output", { for: `${id}-strength` }, number(choice.strength));
  const slider = h("input", {
    type: "range", min: "0", max: "2", step: "0.05", id: `${id}-strength`, value: String(choice.strength),
    "aria-label": `Strength of ${adapter.name}`,
    input: () => {
      choice.strength = Number(slider.value);
      output.textContent = number(choice.strength);
      slider.style.setProperty("--at", choice.strength / 2);
    },
  });
  slider.style.setProperty("--at", choice.strength / 2);
  const strength = h("div", { class: "strength" }, slider, output);
  const toggle = h("input", {
    type: "checkbox", role: "switch", id, "aria-describedby": `${id}-note`,
    change: () => {
      choice.on = toggle.checked;
      strength.hidden = !choice.on;
      item.classList.toggle("on", choice.on);
    },
  });
  toggle.checked = choice.on && adapter.usable;
  toggle.disabled = !adapter.usable;
  strength.hidden = !toggle.checked;
  const name = h("span", { class: "name" }, adapter.name);
  const head = h("div", { class: "head" }, h("label", { class: "switch" }, toggle, name));
  if (adapter.source === "upload") {
    const remove = h("button", { type: "button", class: "plain", "aria-label": `Remove ${adapter.name}`, click: () => removeAdapter(adapter) }, "Remove");
    head.append(remove);
  }
  const note = h("p", { class: "note", id: `${id}-note` }, `${adapter.usable ? describe(adapter) : "Cannot be used"} · ${origin(adapter)}`);
  if (choice.scope) note.append(` · acts at @${choice.scope}`);
  const item = h("li", {}, head, note);
  if (adapter.details.length > 0) {
    item.append(h("details", {}, h("summary", {}, "Details"), h("pre", { tabindex: "0", "aria-label": `Details of ${adapter.name}` }, adapter.details.join("\n"))));
  }
  for (const warning of adapter.warnings) item.append(h("p", { class: "note" }, warning));
  if (adapter.problems.length > 0) item.append(problems(adapter.problems));
  item.append(strength);
  item.classList.toggle("on", toggle.checked);
  return item;
}

const problems = (lines) => h("ul", { class: "problem" }, ...lines.map((line) => h("li", {}, line)));

function render() {
  const list = $("adapter-list");
  for (const [id, item] of rows) {
    if (!store.adapters.has(id)) {
      item.remove();
      rows.delete(id);
      chosen.delete(id);
    }
  }
  for (const adapter of store.adapters.values()) {
    if (!rows.has(adapter.id)) {
      const item = row(adapter);
      rows.set(adapter.id, item);
      list.append(item);
    }
  }
  $("adapter-none").hidden = store.adapters.size > 0 || !store.options.features.adapters;
  $("adapters").hidden = store.adapters.size === 0 && !store.options.features.adapters;
}

async function removeAdapter(adapter) {
  try {
    await api.removeAdapter(adapter.id);
    await store.refreshAdapters();
    announce(`${adapter.name} is removed.`);
    $("adapter-file").focus();
  } catch (error) {
    refuse(adapter.name, error);
  }
}

function refuse(name, error) {
  const box = $("adapter-error");
  box.replaceChildren();
  const lines = error.problems?.length ? error.problems : [error.message];
  const dismiss = h("button", { type: "button", class: "plain", click: () => (show(box, ""), $("adapter-file").focus()) }, "Dismiss");
  box.append(h("p", {}, h("strong", {}, name), " is not taken:"), h("ul", {}, ...lines.map((line) => h("li", {}, line))), dismiss);
  box.hidden = false;
}

/** Uploads an adapter, with its `adapter_config.json` where that is among the files. */
export async function upload(files) {
  const config = files.find((file) => file.name.endsWith(".json"));
  const file = files.find((file) => file.name.endsWith(".safetensors"));
  show($("adapter-error"), "");
  const name = file?.name ?? files[0].name;
  if (!file) return refuse(name, new Error("An adapter is a .safetensors file."));
  const most = store.options.limits.adapter_bytes;
  if (file.size > most) {
    return refuse(name, new Error(`It has ${bytes(file.size)}; at most ${bytes(most)} can be uploaded.`));
  }
  const bar = $("adapter-progress");
  bar.hidden = false;
  bar.value = 0;
  try {
    const adapter = await api.uploadAdapter(file, config, (done) => (bar.value = done));
    await store.refreshAdapters();
    const toggle = rows.get(adapter.id)?.querySelector("[role=switch]");
    if (toggle && !toggle.checked) toggle.click();
    announce(`${adapter.name} is uploaded and on.`);
  } catch (error) {
    refuse(name, error);
  } finally {
    bar.hidden = true;
  }
}

export function start() {
  store.subscribe("adapters", render);
  render();
  $("adapter-upload").hidden = !store.options.features.adapters;
  const input = $("adapter-file");
  input.disabled = !store.options.features.adapters;
  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = "";
    if (files.length > 0) upload(files);
  });
}

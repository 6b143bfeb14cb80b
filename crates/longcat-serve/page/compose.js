// The form: what is to be made.

import * as api from "./api.js";
import * as adapters from "./adapters.js";
import * as input from "./input.js";
import * as store from "./store.js";
import { $, announce, h, show } from "./dom.js";
import { duration, number, seconds, size } from "./words.js";

/** Where the text of an unsent form is kept while the page is loaded again. */
const DRAFT = "longcat-draft";
/** Fields that hold a number or nothing. */
const NUMBERS = ["frames", "seed", "steps", "guidance", "cond_frames"];
const SWITCHES = ["distill", "refine", "spatial_only"];
/** Fields of each mode; all others are hidden and not sent. */
const FIELDS = {
  text: ["size", "frames", "distill", "refine", "negative_prompt", "steps", "guidance", "seed"],
  image: ["size", "frames", "distill", "refine", "negative_prompt", "steps", "guidance", "seed"],
  continue: ["size", "frames", "distill", "refine", "negative_prompt", "steps", "guidance", "seed", "cond_frames"],
  refine: ["spatial_only", "steps", "seed"],
};
const BUTTONS = { text: "Make video", image: "Make video", continue: "Continue video", refine: "Refine video" };

// ---- prompts

const promptFields = () => [...$("prompts").querySelectorAll("textarea")];

function addPrompt(text = "", focus = false) {
  const number = promptFields().length + 1;
  const field = h("textarea", {
    rows: "3", "aria-describedby": "prompt-error", "aria-label": `Prompt ${number}`,
    placeholder: number === 1 ? "What should the video show?" : "And then?",
    input: () => (grow(field), keepDraft()),
  });
  field.value = text;
  field.maxLength = store.options.limits.prompt_characters;
  const remove = h("button", { type: "button", class: "plain", click: () => removePrompt(item) }, "Remove");
  const item = h("li", {}, field, remove);
  $("prompts").append(item);
  grow(field);
  renderPrompts();
  if (focus) field.focus();
}

function removePrompt(item) {
  const next = (item.nextElementSibling ?? item.previousElementSibling)?.querySelector("textarea");
  item.remove();
  renderPrompts();
  keepDraft();
  next?.focus();
}

function renderPrompts() {
  const mode = input.mode();
  const items = [...$("prompts").children];
  const several = items.length > 1;
  $("prompts-legend").textContent = several ? "Prompts" : "Prompt";
  $("prompts").classList.toggle("several", several);
  items.forEach((item, i) => {
    item.querySelector("textarea").setAttribute("aria-label", several ? `Prompt ${i + 1}` : "Prompt");
    const remove = item.querySelector("button");
    remove.hidden = !several;
    remove.setAttribute("aria-label", `Remove prompt ${i + 1}`);
    // Only a video from text alone is made of several.
    item.hidden = mode !== "text" && i > 0;
  });
  $("prompts-note").hidden = !several || mode !== "text";
  $("add-prompt").hidden = mode !== "text" || items.length >= store.options.limits.prompts;
}

/** Makes a field as high as its text. */
function grow(field) {
  field.style.height = "auto";
  if (field.scrollHeight > 0) field.style.height = `${field.scrollHeight + 2}px`;
}

function setPrompts(texts) {
  $("prompts").replaceChildren();
  for (const text of texts.length > 0 ? texts : [""]) addPrompt(text);
}

function keepDraft() {
  sessionStorage.setItem(DRAFT, JSON.stringify(promptFields().map((field) => field.value)));
}

// ---- the rest of the form

function fillSizes() {
  const groups = { Landscape: [], Square: [], Portrait: [] };
  for (const one of store.options.sizes) {
    const shape = one.width / one.height;
    groups[shape > 1.1 ? "Landscape" : shape < 0.91 ? "Portrait" : "Square"].push(one);
  }
  const option = (one) => h("option", { value: one.size }, size(one.size));
  const filled = Object.entries(groups).filter(([, sizes]) => sizes.length > 0);
  const own = h("option", { value: "", id: "own-size" }, "As the picture");
  const all = filled.map(([label, sizes]) => h("optgroup", { label }, ...sizes.map(option)));
  $("size").replaceChildren(own, ...(filled.length === 1 ? filled[0][1].map(option) : all));
}

/** Shows what the mode has, and what settings mean. */
function render() {
  const mode = input.mode();
  const { defaults, features } = store.options;
  const fields = FIELDS[mode];
  for (const field of document.querySelectorAll("[data-field]")) {
    const name = field.dataset.field;
    const offered = name in features ? features[name] : true;
    field.hidden = !fields.includes(name) || !offered;
  }
  $("format").hidden = mode === "refine";

  const own = $("own-size");
  const takesShape = mode === "image" || mode === "continue";
  own.hidden = own.disabled = !takesShape;
  own.textContent = mode === "image" ? "As the picture" : "As the video";
  if (!takesShape && $("size").value === "") $("size").value = defaults.size;

  const distilled = $("distill").checked && fields.includes("distill");
  $("distill-note").textContent = `${defaults.distill_steps} steps in place of ${defaults.steps}`;
  $("steps").placeholder = String(distilled ? defaults.distill_steps : defaults.steps);
  $("guidance").placeholder = number(distilled ? defaults.distill_guidance : defaults.guidance);
  $("cond_frames").placeholder = String(defaults.cond_frames);
  const guidance = Number($("guidance").value || $("guidance").placeholder);
  $("negative-note").hidden = guidance > 1 || !$("negative_prompt").value;

  const frames = Number($("frames").value);
  $("length").textContent = frames > 0 ? seconds(frames / defaults.fps) : "";
  $("submit").textContent = BUTTONS[mode];
  renderPrompts();
}

/** The request that the form is, without its upload. */
function request() {
  const mode = input.mode();
  const fields = FIELDS[mode];
  const texts = promptFields().map((field) => field.value.trim());
  const asked = { mode };
  if (mode === "text" && texts.length > 1) asked.prompts = texts;
  else if (texts[0] || mode === "text" || mode === "image") asked.prompt = texts[0];
  const given = (name) => fields.includes(name) && !document.querySelector(`[data-field=${name}]`).hidden;
  if (given("negative_prompt") && $("negative_prompt").value.trim()) {
    asked.negative_prompt = $("negative_prompt").value.trim();
  }
  if (given("size") && $("size").value) asked.size = $("size").value;
  for (const name of NUMBERS) {
    if (given(name) && $(name).value !== "") asked[name] = Number($(name).value);
  }
  for (const name of SWITCHES) {
    if (given(name) && $(name).checked) asked[name] = true;
  }
  const used = adapters.used();
  if (used.length > 0) asked.adapters = used;
  const from = input.get();
  if (from?.from) asked.from = from.from;
  if (from?.inputFrom) asked.input_from = from.inputFrom;
  return asked;
}

// ---- errors

/** The element in which errors of a member of the request are shown, and the field at fault. */
function placeOf(param) {
  const name = (param ?? "").split(/[.[]/)[0];
  if (name === "prompt" || name === "prompts") {
    const index = Number(/\d+/.exec(param)?.[0] ?? 0);
    return [$("prompt-error"), promptFields()[index] ?? promptFields()[0]];
  }
  if (["image", "video", "input_reference", "from", "input_from"].includes(name)) return [$("input-error"), $("file")];
  const place = $(`${name}-error`);
  const field = $(name);
  return place && field ? [place, field] : [$("form-error"), null];
}

/** Takes back what was said of a field that is being mended. */
function clearErrorOf(field) {
  const isPrompt = $("prompts").contains(field);
  const place = isPrompt ? $("prompt-error") : $(`${field.id}-error`);
  field.removeAttribute("aria-invalid");
  if (place?.classList.contains("error")) show(place, "");
}

function clearErrors() {
  for (const place of document.querySelectorAll("#compose .error, #form-error")) show(place, "");
  for (const field of document.querySelectorAll("#compose [aria-invalid]")) field.removeAttribute("aria-invalid");
}

function refuse(param, message) {
  let [place, field] = placeOf(param);
  if (field?.closest("[hidden]")) [place, field] = [$("form-error"), null];
  show(place, message);
  if (!field) return;
  field.setAttribute("aria-invalid", "true");
  field.closest("details")?.setAttribute("open", "");
  field.focus();
}

/** What is wrong with the form, as far as the browser can tell: the first field and what to do. */
function wrong(asked) {
  const { limits } = store.options;
  const texts = asked.prompts ?? [asked.prompt ?? ""];
  const empty = texts.findIndex((text) => !text);
  const needed = asked.mode === "text" || asked.mode === "image" || !asked.from;
  if (needed && empty >= 0) {
    const which = texts.length > 1 ? `Prompt ${empty + 1} is empty: say` : "Say";
    return [`prompts.${empty}`, `${which} what the video shows.`];
  }
  for (const name of NUMBERS) {
    if ($(name).validity.badInput) return [name, "This is not a number."];
  }
  const multiple = limits.frames_multiple;
  for (const name of ["frames", "cond_frames"]) {
    const value = asked[name];
    if (value === undefined) continue;
    const nearest = Math.max(1, Math.min(limits.frames, multiple * Math.round((value - 1) / multiple) + 1));
    if (value !== nearest) return [name, `${value} will not do; ${nearest} will.`];
  }
  return null;
}

async function submit(event) {
  event?.preventDefault();
  clearErrors();
  const asked = request();
  const problem = wrong(asked);
  if (problem) return refuse(...problem);
  const button = $("submit");
  button.disabled = true;
  const { kind, file } = input.get() ?? {};
  const progress = file && ((done) => (button.textContent = done < 1 ? `Uploading ${Math.round(100 * done)} %` : "Checking…"));
  try {
    const video = await api.create(asked, file && { kind, file }, progress);
    // Events may have told more of it by now.
    store.add(video);
    announce(`In the queue: ${video.prompt}`);
    $("now").scrollIntoView({ block: "nearest" });
  } catch (error) {
    const again = error.retryAfter ? ` Try again in ${duration(error.retryAfter)}.` : "";
    const lines = (error.problems ?? []).filter((line) => line !== error.message);
    refuse(error.param, [error.message + again, ...lines].join("\n"));
  } finally {
    button.disabled = false;
    render();
  }
}

// ---- what other parts of the page ask for

/** Puts the settings of a video into the form. */
export function makeAgain(video) {
  const asked = video.settings;
  setPrompts(asked.prompts);
  if (asked.from) input.set({ kind: "video", from: asked.from }, asked.mode);
  else if (asked.input) input.set({ kind: asked.input, inputFrom: video.id }, asked.input === "video" ? asked.mode : undefined);
  else input.set(null);
  $("size").value = asked.size ?? (video.mode === "text" ? store.options.defaults.size : "");
  if ($("size").value !== (asked.size ?? "") && asked.size) {
    $("size").append(h("option", { value: asked.size }, size(asked.size)));
    $("size").value = asked.size;
  }
  $("negative_prompt").value = asked.negative_prompt;
  for (const name of NUMBERS) $(name).value = asked[name] ?? "";
  for (const name of SWITCHES) $(name).checked = asked[name];
  const gone = adapters.use(asked.adapters);
  present(`The settings are in the form.${gone.length > 0 ? ` Gone: ${gone.join(", ")}.` : ""}`);
  if (gone.length > 0) show($("form-error"), `Adapters that are no longer there: ${gone.join(", ")}`);
}

/** Lets the form continue or refine a video. */
export function goOnFrom(video, mode) {
  input.set({ kind: "video", from: video.id }, mode);
  setPrompts([video.prompt]);
  $("size").value = "";
  for (const name of NUMBERS) $(name).value = "";
  $("distill").checked = video.settings.distill;
  $("refine").checked = false;
  adapters.use(video.settings.adapters);
  present(mode === "refine" ? "The form refines this video." : "The form continues this video.");
}

function present(text) {
  clearErrors();
  render();
  announce(text);
  const field = promptFields()[0];
  $("compose").scrollIntoView({ block: "start" });
  field.focus({ preventScroll: true });
}

/** Takes files that were dropped on the page. */
function drop(files) {
  const isAdapter = files.some((file) => /\.(safetensors|json)$/.test(file.name));
  if (isAdapter) adapters.upload(files);
  else if (files.length > 0) input.takeFile(files[0]);
}

export function start() {
  const { defaults, limits } = store.options;
  fillSizes();
  $("size").value = defaults.size;
  $("frames").value = String(defaults.frames);
  $("frames").step = String(limits.frames_multiple);
  $("frames").max = String(limits.frames);
  $("cond_frames").step = String(limits.frames_multiple);
  $("steps").max = String(limits.steps);
  $("distill").checked = store.options.features.distill;
  let draft = null;
  try {
    draft = JSON.parse(sessionStorage.getItem(DRAFT));
  } catch {
    // Another version's.
  }
  setPrompts(Array.isArray(draft) ? draft : []);
  input.start(() => {
    // The shape of what is given, unless another one is chosen then.
    $("size").value = "";
    render();
  });
  adapters.start();
  render();

  const form = $("compose");
  form.addEventListener("submit", submit);
  form.addEventListener("input", (event) => {
    clearErrorOf(event.target);
    render();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
  });
  $("add-prompt").addEventListener("click", () => addPrompt("", true));

  let inside = 0;
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => {
    if (carriesFiles(event)) document.body.classList.toggle("dropping", ++inside > 0);
  });
  addEventListener("dragleave", (event) => {
    if (carriesFiles(event)) document.body.classList.toggle("dropping", --inside > 0);
  });
  addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    inside = 0;
    document.body.classList.remove("dropping");
    drop([...event.dataTransfer.files]);
  });
}

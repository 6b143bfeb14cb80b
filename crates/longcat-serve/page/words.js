// Numbers and settings as people read them.

/** `832x480` with a multiplication sign. */
export const size = (text) => (text ?? "").replace("x", " × ");

/** Seconds, roughly. */
export function duration(seconds) {
  if (seconds < 1) return "less than a second";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

/** How long a job will still take, where that is known. */
export function left({ eta }) {
  if (eta === null) return "";
  return eta < 1.5 ? "almost done" : `about ${duration(eta)} left`;
}

/** Bytes, roughly. */
export function bytes(count) {
  const units = ["B", "KB", "MB", "GB"];
  let unit = 0;
  for (; count >= 1000 && unit < units.length - 1; unit += 1) count /= 1000;
  return `${count < 10 && unit > 0 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

/** A number without zeros that say nothing. */
export const number = (value) => String(Math.round(value * 100) / 100);

/** The length of a video. */
export const seconds = (value) => `${String(Math.round(value * 10) / 10)} s`;

/** The moment of so many seconds since 1970. */
export const moment = (seconds) =>
  new Date(seconds * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

const STAGES = {
  open: "Opening the model",
  text: "Reading the prompt",
  transformer: "Loading the model",
  denoise: "Denoising",
  encode: "Encoding frames",
  decode: "Decoding frames",
  write: "Writing the file",
};

/** What a job is doing, with so many others before it. */
export function doing(video, before) {
  if (video.status === "queued") {
    return before ? `Waiting for ${before} other${before === 1 ? "" : "s"}` : "Waiting";
  }
  const [, refining, stage] = /^(refine: )?(.*)$/.exec(video.stage ?? "");
  const name = STAGES[stage] ?? (stage ? stage[0].toUpperCase() + stage.slice(1) : "Starting");
  const parts = [refining ? `Refining: ${name.toLowerCase()}` : name];
  if (video.segments > 1 && video.segment) parts.unshift(`Segment ${video.segment} of ${video.segments}`);
  if (video.steps > 1 && video.step !== null) parts.push(`step ${video.step} of ${video.steps}`);
  return parts.join(", ");
}

/** What a video is, in a few words. */
export function summary(video, adapters) {
  const parts = [size(video.size), seconds(Number(video.seconds))];
  if (video.mode === "image") parts.push("from an image");
  if (video.mode === "continue") parts.push("continued");
  if (video.mode === "refine" || video.settings.refine) parts.push("refined");
  if (video.settings.prompts.length > 1) parts.push(`${video.settings.prompts.length} prompts`);
  for (const use of video.settings.adapters) parts.push(adapterUse(use, adapters));
  return parts.join(" · ");
}

/** An adapter with its strength. */
export const adapterUse = (use, adapters) =>
  `${adapters.get(use.id)?.name ?? use.id} ${number(use.strength ?? 1)}${use.scope ? ` @${use.scope}` : ""}`;

/** All settings of a video, as pairs of a name and a text. */
export function settings(video, adapters) {
  const asked = video.settings;
  const modes = { text: "text", image: "image", continue: "continuation", refine: "refinement" };
  const pairs = [
    ...asked.prompts.map((prompt, i) => [asked.prompts.length > 1 ? `Prompt ${i + 1}` : "Prompt", prompt]),
    ["Negative prompt", asked.negative_prompt],
    ["Made from", modes[video.mode]],
    ["Size", size(video.size)],
    ["Length", `${video.frames} frames, ${seconds(Number(video.seconds))} at ${number(video.fps)} fps`],
    ["Seed", String(asked.seed)],
    ["Steps", asked.steps === null ? "" : String(asked.steps)],
    ["Guidance", asked.guidance === null ? "" : number(asked.guidance)],
    ["Fast", asked.distill ? "yes" : ""],
    ["Refined", asked.refine ? "yes" : ""],
    ["Frame rate", asked.spatial_only ? "kept" : ""],
    ["Frames to go on from", asked.cond_frames === null ? "" : String(asked.cond_frames)],
    ["Cache", asked.cache ?? ""],
    ["Adapters", asked.adapters.map((use) => adapterUse(use, adapters)).join(", ")],
    ["Model", video.model],
    ["Made", video.completed_at ? moment(video.completed_at) : ""],
    ["Took", video.completed_at && video.started_at ? duration(video.completed_at - video.started_at) : ""],
  ];
  return pairs.filter(([, value]) => value);
}

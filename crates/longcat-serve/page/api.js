// The server.

/** What the server says of a request that it refuses. */
export class ApiError extends Error {
  constructor(status, body, retryAfter) {
    const error = body?.error ?? {};
    super(error.message ?? `The server answered ${status}.`);
    this.status = status;
    /** The member of the request that is at fault, if it is one. */
    this.param = error.param ?? null;
    /** Reasons, line by line. */
    this.problems = error.problems ?? [];
    /** Seconds after which to try again. */
    this.retryAfter = retryAfter;
  }
}

/** No answer at all. */
export class Unreachable extends Error {
  constructor() {
    super("The server does not answer. Is it still running?");
  }
}

async function call(method, path, body) {
  const options = { method, headers: {} };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Unreachable();
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok) throw new ApiError(response.status, answer, Number(response.headers.get("Retry-After")));
  return answer;
}

/** Posts with progress from 0 to 1, which `fetch` cannot tell of. */
function post(path, body, { type, key, progress } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    request.responseType = "json";
    if (type) request.setRequestHeader("Content-Type", type);
    if (key) request.setRequestHeader("Idempotency-Key", key);
    if (progress) {
      request.upload.addEventListener("progress", (event) => {
        if (event.lengthComputable) progress(event.loaded / event.total);
      });
    }
    request.addEventListener("load", () => {
      const retryAfter = Number(request.getResponseHeader("Retry-After"));
      if (request.status < 300) resolve(request.response);
      else reject(new ApiError(request.status, request.response, retryAfter));
    });
    request.addEventListener("error", () => reject(new Unreachable()));
    request.send(body);
  });
}

/** A key under which a request that is sent twice is one. */
function newKey() {
  const words = crypto.getRandomValues(new Uint32Array(4));
  return [...words].map((word) => word.toString(16).padStart(8, "0")).join("");
}

export const options = () => call("GET", "/v1/options");

/** Puts a video into the queue; `upload` is `{ kind: "image" | "video", file }`. */
export async function create(request, upload, progress) {
  let [body, type] = [JSON.stringify(request), "application/json"];
  if (upload) {
    body = new FormData();
    body.append("request", JSON.stringify(request));
    body.append(upload.kind, upload.file);
    type = undefined;
  }
  const key = newKey();
  try {
    return await post("/v1/videos", body, { type, key, progress });
  } catch (error) {
    if (!(error instanceof Unreachable)) throw error;
    // The answer may have been lost, not the request.
    return post("/v1/videos", body, { type, key, progress });
  }
}

/** A page of the list, the newest first; `filter` has `limit`, `after`, `status` and `order`. */
export const list = (filter = {}) => call("GET", `/v1/videos?${new URLSearchParams({ limit: 40, ...filter })}`);
export const video = (id) => call("GET", `/v1/videos/${id}`);
/** Cancels a job that is not finished, removes one that is. */
export const remove = (id) => call("DELETE", `/v1/videos/${id}`);

export const adapters = () => call("GET", "/v1/adapters");
export const removeAdapter = (id) => call("DELETE", `/v1/adapters/${encodeURIComponent(id)}`);
export function uploadAdapter(file, config, progress) {
  const body = new FormData();
  body.append("file", file);
  if (config) body.append("config", config);
  return post("/v1/adapters", body, { progress });
}

/** The path of a file of a video: content, thumbnail, latents, settings, preview or input. */
export const fileOf = (id, name) => `/v1/videos/${id}/${name}`;

/**
 * Follows all jobs. `on` has `status`, `step`, `preview`, `removed`, and `open` and `lost` of the connection
 * itself. The browser connects again by itself, unless it was refused.
 */
export function follow(on) {
  const source = new EventSource("/v1/events");
  for (const name of ["status", "step", "preview", "removed"]) {
    source.addEventListener(name, (event) => on[name](JSON.parse(event.data)));
  }
  source.addEventListener("open", () => on.open());
  source.addEventListener("error", () => {
    on.lost();
    if (source.readyState === EventSource.CLOSED) setTimeout(() => follow(on), 5000);
  });
}

// Requests to the server. Addresses are relative, so that the page also works behind a path of another server.

const BUSY_TRIES = 4;

/** What went wrong, as one line. `gone`: the server did not answer at all. */
export class Problem extends Error {
  constructor(message, { status = 0, gone = false } = {}) {
    super(message);
    this.status = status;
    this.gone = gone;
  }
}

async function ask(path, options = {}) {
  for (let attempt = 1; ; attempt++) {
    let answer;
    try {
      answer = await fetch(path, options);
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new Problem("", { gone: true });
    }
    if (answer.ok) return answer.json();
    if (answer.status === 503 && attempt < BUSY_TRIES) {
      // The queue is full; the server says when to come back.
      await pause(Math.min(Number(answer.headers.get("Retry-After")) || 1, 5), options.signal);
      continue;
    }
    const body = await answer.json().catch(() => ({}));
    throw new Problem(body.error || `${answer.status} ${answer.statusText}`, { status: answer.status });
  }
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

const post = (path, body, signal) =>
  ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });

export const getState = () => ask("api/state");
export const search = (body, signal) => post("api/search", body, signal);
export const getAttention = (body, signal) => post("api/attention", body, signal);
export const getClusters = (index, start, count) =>
  ask(`api/clusters/${encodeURIComponent(index)}?start=${start}&count=${count}`);
export const nameCluster = (index, cluster, name) =>
  post(`api/clusters/${encodeURIComponent(index)}`, { cluster, name });
export const exportAddress = (index) => `api/clusters/${encodeURIComponent(index)}/export`;
export const thumbnail = (index, place, size = 256) =>
  `api/thumbnail/${encodeURIComponent(index)}/${place}?size=${size}`;

/** Sends the bytes of an image file. */
export function uploadImage(file) {
  const headers = { "Content-Type": file.type || "application/octet-stream" };
  return ask("api/upload", { method: "POST", headers, body: file });
}

/** Sends an image of one index, so that another index, which may not have it, can be asked for images like it. */
export async function uploadResult(index, place) {
  const answer = await fetch(thumbnail(index, place, 640)).catch(() => {
    throw new Problem("", { gone: true });
  });
  if (!answer.ok) throw new Problem(`${answer.status} ${answer.statusText}`, { status: answer.status });
  return uploadImage(await answer.blob());
}

// Requests to the server of this page. Answers that have not changed are not parsed again.

const KEY = "deribit-tape-key";
const cache = new Map();

/** A request that failed. `message` is a sentence, which names the next command between backquotes. */
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    Object.assign(this, {status, code});
  }
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const setKey = key => sessionStorage.setItem(KEY, key);

function headers() {
  const key = sessionStorage.getItem(KEY);
  return key ? {Authorization: `Bearer ${key}`} : {};
}

/** The address of a route; parameters that are undefined or null are left out. */
export function url(path, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null));
  return query.size ? `${path}?${query}` : path;
}

/** The answer of a route. Raises ApiError; AbortError if `signal` is aborted. */
export async function get(path, parameters = {}, {signal} = {}) {
  const address = url(path, parameters);
  const known = cache.get(address);
  const response = await request(address, {signal, headers: {...headers(), ...(known ? {"If-None-Match": known.tag} : {})}});
  if (response.status === 304) return known.answer;
  const answer = await response.json();
  const tag = response.headers.get("ETag");
  if (tag) remember(address, {tag, answer});
  return answer;
}

/** Save what a route answers as a file; links cannot send the key. */
export async function download(address, name) {
  const response = await request(address, {headers: headers()});
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function request(address, options) {
  let response;
  try {
    response = await fetch(address, {cache: "no-store", ...options});
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "no_server", `No server answers at ${location.host}. Start it with \`make serve\`, or the demo with \`make demo\`.`);
  }
  if (response.ok || response.status === 304) return response;
  const envelope = await response.json().catch(() => ({}));
  throw new ApiError(response.status, envelope.code || "failed", envelope.message || `The server answered with status ${response.status}.`);
}

function remember(address, entry) {
  cache.delete(address);
  cache.set(address, entry);
  if (cache.size > 60) cache.delete(cache.keys().next().value);
}

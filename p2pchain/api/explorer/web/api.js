// Reads /api/v1.

export async function read(path) {
  const response = await fetch("/api/v1" + path);
  const body = await response.json();
  if (!response.ok) throw new Error(body.error ? body.error.message : response.statusText);
  return body;
}

export const cursor = (path, after) => path + (after ? (path.includes("?") ? "&" : "?") + "after=" + encodeURIComponent(after) : "");

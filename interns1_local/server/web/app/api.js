// Talks to the server that the page came from. Where it asks for a key, the reader is asked once for this tab.

const KEY = 'api_key';

async function request(path, body, signal) {
  for (;;) {
    const headers = { Accept: 'application/json' };
    const key = sessionStorage.getItem(KEY);
    if (key) headers.Authorization = `Bearer ${key}`;
    if (body !== undefined) headers['Content-Type'] = 'application/json';
    const answer = await fetch(path, {
      method: body === undefined ? 'GET' : 'POST', headers, signal, body: body === undefined ? undefined : JSON.stringify(body),
    });
    if (answer.status === 401) {
      const { askKey } = await import('./key_dialog.js');
      sessionStorage.setItem(KEY, await askKey(Boolean(key)));
      continue;
    }
    if (!answer.ok) throw new Error(await errorText(answer));
    return answer;
  }
}

export const getJson = async (path) => (await request(path)).json();
export const postJson = async (path, body) => (await request(path, body)).json();

// The lines of a streamed answer as objects; a line that is an error ends it.
export async function* lines(path, body, signal) {
  const reader = (await request(path, body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    rest += value ?? '';
    const whole = rest.split('\n');
    rest = done ? '' : whole.pop();
    for (const line of whole) {
      if (!line.trim()) continue;
      const object = JSON.parse(line);
      if (object.error) throw new Error(object.error);
      yield object;
    }
    if (done) return;
  }
}

async function errorText(answer) {
  const text = await answer.text();
  try {
    const { error } = JSON.parse(text);
    return error?.message ?? error ?? text;
  } catch {
    return text || `HTTP ${answer.status}`;
  }
}

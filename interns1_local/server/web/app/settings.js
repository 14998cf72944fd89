// What the reader chose for the next answers, kept in this browser.

const DEFAULTS = { model: '', think: true, budget: '', system: '', options: {}, builtin: [], tools: '', schema: '', keep_alive: '' };

export const settings = { ...DEFAULTS, ...read() };

function read() {
  try {
    return JSON.parse(localStorage.getItem('settings')) ?? {};
  } catch {
    return {};
  }
}

export function change(changes) {
  Object.assign(settings, changes);
  localStorage.setItem('settings', JSON.stringify(settings));
  document.dispatchEvent(new CustomEvent('settings'));
}

export const reset = () => change({ ...DEFAULTS, model: settings.model });

// A text as JSON: undefined when it is empty, an Error when it is none.
export function parsed(text) {
  if (!text.trim()) return undefined;
  try {
    return JSON.parse(text);
  } catch (error) {
    return error;
  }
}

// Where a text holds molecules and sequences: asked of the server, and guessed here while an answer still streams.

import { postJson } from './api.js';

const LIMIT = 200000;
const remembered = new Map();

// {spans, hint}: spans in UTF-16 places, in order.
export function scienceOf(text) {
  if (text.length > LIMIT || !mayHoldScience(text)) return Promise.resolve({ spans: [] });
  if (!remembered.has(text)) {
    if (remembered.size > 200) remembered.delete(remembered.keys().next().value);
    remembered.set(text, ask(text).catch(() => { remembered.delete(text); return { spans: guess(text) }; }));
  }
  return remembered.get(text);
}

async function ask(text) {
  const { spans, hint } = await postJson('/api/molecules', { text });
  const places = utf16Places(text);
  return { hint, spans: spans.map((span) => ({ ...span, start: places(span.start), end: places(span.end) })) };
}

// The server counts characters, JavaScript halves of some.
function utf16Places(text) {
  if (!/[\uD800-\uDFFF]/.test(text)) return (place) => place;
  const starts = [];
  let at = 0;
  for (const letter of text) {
    starts.push(at);
    at += letter.length;
  }
  starts.push(at);
  return (place) => starts[place] ?? at;
}

const mayHoldScience = (text) => /<(SMILES|SELFIES|IUPAC|FASTA|MOLFORMULA)>|[A-Za-z0-9@+\-[\]()=#$%/\\.*:]{10}/.test(text);

const TAGGED = /<(SMILES|SELFIES|IUPAC|FASTA|MOLFORMULA)>([^<]*)(?:<\/\1>|$)/g;
const BRACKETED = /(?<![\w`/])(?=\S*\[[0-9]{0,3}[A-Za-z][a-z]?(?:@{0,2}H?\d?[+-]*\d?(?::\d+)?)\])[A-Za-z0-9@+\-[\]()=#$%/\\.*:]{6,2000}/g;

// What must not be read as Markdown until the server has answered.
export function guess(text) {
  const spans = [];
  for (const found of text.matchAll(TAGGED)) spans.push({ kind: found[1].toLowerCase(), start: found.index, end: found.index + found[0].length, value: found[2].trim(), tagged: true });
  for (const found of text.matchAll(BRACKETED)) {
    const [start, end] = [found.index, found.index + found[0].length];
    if (spans.every((span) => end <= span.start || start >= span.end)) spans.push({ kind: 'text', start, end, value: found[0] });
  }
  return spans.sort((one, other) => one.start - other.start);
}

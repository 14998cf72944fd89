// One answer: the request, its stream, the calls of tools in it, and the answer after their results.

import { lines } from './api.js';
import { add, chosenPath, figuresIn } from './tree.js';
import { parsed, settings } from './settings.js';

const MAX_ROUNDS = 8;

// Runs until the model has ended, the reader stops it (`signal`), or a call waits for an answer by hand.
export async function answer(conversation, parent, { model, canThink, signal, changed, added }) {
  let from = parent;
  for (let round = 0; round < MAX_ROUNDS; round += 1) {
    const node = add(conversation, from, { role: 'assistant', model: model.name, thinking: '', calls: [], running: true });
    if (settings.schema.trim()) node.schema = parsed(settings.schema);
    added(node);
    await streamInto(node, await requestFor(conversation, node, model, canThink), signal, changed);
    if (node.stopped || node.error || !node.calls.length) return;
    from = await runCalls(conversation, node, changed, added);
    if (from === null) return;
  }
}

async function streamInto(node, body, signal, changed) {
  try {
    for await (const chunk of lines('/api/chat', body, signal)) take(node, chunk, changed);
  } catch (error) {
    if (signal.aborted) node.stopped = true;
    else node.error = error.message || String(error);
  } finally {
    delete node.running;
    endThought(node);
    changed(node);
  }
}

function take(node, chunk, changed) {
  const { content = '', thinking = '', tool_calls: calls = [] } = chunk.message ?? {};
  if (thinking) {
    node.thinkStart ??= performance.now();
    node.thinking += thinking;
    node.thinkPieces = (node.thinkPieces ?? 0) + 1;
  }
  if (content || calls.length) endThought(node);
  node.content += content;
  for (const call of calls) node.calls.push({ id: call.id ?? '', name: call.function.name, arguments: call.function.arguments ?? {} });
  if (chunk.done) node.stats = statsOf(chunk);
  changed(node);
}

function endThought(node) {
  if (node.thinking && node.thinkSeconds === undefined) node.thinkSeconds = (performance.now() - node.thinkStart) / 1000;
}

function statsOf(chunk) {
  const stats = figuresIn(chunk);
  if (chunk.done_reason === 'length') stats.cut = 1;
  return stats;
}

async function requestFor(conversation, node, model, canThink) {
  const path = chosenPath(conversation);
  const before = path.slice(0, path.indexOf(node));
  const messages = before.filter((message) => !message.error || message.content).map(messageFor);
  if (settings.system.trim()) messages.unshift({ role: 'system', content: settings.system });
  const body = { model: model.name, messages, options: settings.options, stream: true };
  if (canThink) body.think = settings.think;
  if (canThink && settings.think && settings.budget !== '') body.think_budget = Number(settings.budget);
  const tools = await toolsFor(model);
  if (tools.length) body.tools = tools;
  if (node.schema) body.format = node.schema;
  if (settings.keep_alive) body.keep_alive = settings.keep_alive;
  return body;
}

async function toolsFor(model) {
  if (!model.capabilities?.includes('tools')) return [];
  const own = parsed(settings.tools);
  const builtin = settings.builtin.length ? (await import('./tools.js')).builtinDefinitions(settings.builtin) : [];
  return [...builtin, ...(Array.isArray(own) ? own : [])];
}

function messageFor(node) {
  const message = { role: node.role, content: node.content };
  const pick = (kind) => (node.media ?? []).filter((item) => item.type.startsWith(kind)).map((item) => item.data);
  const [images, videos] = [pick('image/'), pick('video/')];
  if (images.length) message.images = images;
  if (videos.length) message.videos = videos;
  if (node.role === 'assistant') {
    if (node.thinking) message.thinking = node.thinking;
    if (node.calls?.length) message.tool_calls = node.calls.map((call) => ({ id: call.id || undefined, function: { name: call.name, arguments: call.arguments } }));
  }
  if (node.role === 'tool') {
    message.tool_name = node.toolName;
    if (node.callId) message.tool_call_id = node.callId;
  }
  return message;
}

// The results of tools that the page has; null when one of the calls waits for the reader.
async function runCalls(conversation, node, changed, added) {
  const results = await Promise.all(node.calls.map((call) => (settings.builtin.includes(call.name) ? import('./tools.js').then((tools) => tools.runBuiltin(call)) : null)));
  if (results.includes(null)) {
    node.waiting = true;
    changed(node);
    return null;
  }
  const last = addResults(conversation, node, results);
  added(last);
  return last.id;
}

export function addResults(conversation, node, results) {
  let last = node;
  node.calls.forEach((call, index) => {
    last = add(conversation, last.id, { role: 'tool', toolName: call.name, callId: call.id, content: results[index] });
  });
  delete node.waiting;
  return last;
}

// A conversation is a tree of messages: editing or regenerating adds a branch, and one child of each is chosen.

export function newConversation() {
  const now = Date.now();
  return { version: 1, id: crypto.randomUUID?.() ?? `${now}-${Math.random().toString(36).slice(2)}`, title: '', created: now, updated: now, model: '', nodes: {}, chosen: {}, count: 0 };
}

export function add(conversation, parent, message) {
  const id = `m${conversation.count += 1}`;
  const node = { id, parent: parent ?? 'root', content: '', ...message };
  conversation.nodes[id] = node;
  conversation.chosen[node.parent] = id;
  conversation.updated = Date.now();
  return node;
}

// The messages from the first to the end of the chosen branch.
export function chosenPath(conversation) {
  const found = [];
  let id = conversation.chosen.root;
  while (id && conversation.nodes[id]) {
    found.push(conversation.nodes[id]);
    id = conversation.chosen[id];
  }
  return found;
}

export function pathTo(conversation, id) {
  const found = [];
  for (let node = conversation.nodes[id]; node; node = conversation.nodes[node.parent]) found.unshift(node);
  return found;
}

export const siblings = (conversation, node) => Object.values(conversation.nodes).filter((other) => other.parent === node.parent);

export function choose(conversation, id) {
  conversation.chosen[conversation.nodes[id].parent] = id;
}

export function titleOf(conversation) {
  return conversation.title || chosenPath(conversation).find((node) => node.role === 'user')?.content.replace(/<\/?[A-Z]+>/g, '').replace(/\s+/g, ' ').trim().slice(0, 60) || '';
}

const ROLES = new Set(['system', 'user', 'assistant', 'tool']);
const text = (value) => (typeof value === 'string' ? value : '');
export const figuresIn = (value) => Object.fromEntries(Object.entries(value).filter(([, figure]) => Number.isFinite(figure)));

// A conversation from a file: only what is known, in the types that it must have; null if it is none.
export function readConversation(value) {
  if (!value || typeof value !== 'object' || !value.nodes || typeof value.nodes !== 'object') return null;
  const conversation = { ...newConversation(), title: text(value.title), model: text(value.model), created: Number(value.created) || Date.now(), updated: Number(value.updated) || Date.now() };
  const ids = new Map([['root', 'root']]);
  for (const [id, node] of Object.entries(value.nodes)) if (node && ROLES.has(node.role)) ids.set(id, `m${conversation.count += 1}`);
  for (const [id, node] of Object.entries(value.nodes)) {
    if (!ids.has(id) || !ids.has(node.parent)) continue;
    const mine = { id: ids.get(id), parent: ids.get(node.parent), role: node.role, content: text(node.content), thinking: text(node.thinking), model: text(node.model), toolName: text(node.toolName), callId: text(node.callId), error: text(node.error) };
    mine.calls = (Array.isArray(node.calls) ? node.calls : []).filter((call) => typeof call?.name === 'string').map((call) => ({ id: text(call.id), name: call.name, arguments: call.arguments ?? {} }));
    mine.media = (Array.isArray(node.media) ? node.media : []).filter((item) => /^(image|video)\/[\w.+-]+$/.test(item?.type) && /^[A-Za-z0-9+/=]+$/.test(item?.data)).map((item) => ({ name: text(item.name), type: item.type, data: item.data, tokens: Number(item.tokens) || undefined }));
    if (node.stats && typeof node.stats === 'object') mine.stats = figuresIn(node.stats);
    if (node.schema && typeof node.schema === 'object') mine.schema = node.schema;
    for (const name of ['thinkSeconds', 'thinkPieces']) if (Number.isFinite(node[name])) mine[name] = node[name];
    mine.stopped = Boolean(node.stopped);
    conversation.nodes[mine.id] = mine;
  }
  for (const [parent, child] of Object.entries(value.chosen ?? {})) {
    const [from, to] = [ids.get(parent), ids.get(child)];
    if (from && conversation.nodes[to]?.parent === from) conversation.chosen[from] = to;
  }
  return Object.keys(conversation.nodes).length ? conversation : null;
}

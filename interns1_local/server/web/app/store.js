// Conversations in the browser: IndexedDB, or only this tab's memory where the browser refuses it. Beside each stands
// what the list shows of it, so that the list does not read every picture.

import { titleOf } from './tree.js';

const memory = new Map();
const SEARCHED = 20000;
// What is removed while its answer still comes is not saved again.
const removed = new Set();
let opened = null;

function open() {
  opened ??= new Promise((resolve) => {
    try {
      const asked = indexedDB.open('interns1', 2);
      asked.onupgradeneeded = () => {
        const names = asked.result.objectStoreNames;
        for (const name of ['conversations', 'summaries']) if (!names.contains(name)) asked.result.createObjectStore(name, { keyPath: 'id' });
      };
      asked.onsuccess = () => resolve(asked.result);
      asked.onerror = () => resolve(null);
    } catch {
      resolve(null);
    }
  });
  return opened;
}

// `work` gets the two stores and returns the request whose result is wanted.
async function inStores(mode, work) {
  const database = await open();
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(['conversations', 'summaries'], mode);
    const asked = work(transaction.objectStore('conversations'), transaction.objectStore('summaries'));
    transaction.oncomplete = () => resolve(asked.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

function summary(conversation) {
  const text = Object.values(conversation.nodes).map((node) => node.content).join('\n').slice(0, SEARCHED).toLowerCase();
  return { id: conversation.id, title: titleOf(conversation), updated: conversation.updated, text };
}

export async function save(conversation) {
  if (removed.has(conversation.id)) return;
  const copy = structuredClone(conversation);
  if (!(await open())) return void memory.set(copy.id, copy);
  await inStores('readwrite', (conversations, summaries) => {
    summaries.put(summary(copy));
    return conversations.put(copy);
  });
}

export async function load(id) {
  return (await open()) ? inStores('readonly', (conversations) => conversations.get(id)) : structuredClone(memory.get(id));
}

export async function remove(id) {
  removed.add(id);
  if (!(await open())) return void memory.delete(id);
  await inStores('readwrite', (conversations, summaries) => {
    summaries.delete(id);
    return conversations.delete(id);
  });
}

const latestFirst = (found) => found.sort((one, other) => other.updated - one.updated);

export async function all() {
  return latestFirst((await open()) ? await inStores('readonly', (conversations) => conversations.getAll()) : [...memory.values()]);
}

// [{id, title, updated, text}], the latest first.
export async function summaries() {
  return latestFirst((await open()) ? await inStores('readonly', (_, found) => found.getAll()) : [...memory.values()].map(summary));
}

// Conversations in the browser: IndexedDB, or only this tab's memory where the browser refuses it.

const memory = new Map();
let opened = null;

function open() {
  opened ??= new Promise((resolve) => {
    try {
      const asked = indexedDB.open('interns1', 1);
      asked.onupgradeneeded = () => asked.result.createObjectStore('conversations', { keyPath: 'id' });
      asked.onsuccess = () => resolve(asked.result);
      asked.onerror = () => resolve(null);
    } catch {
      resolve(null);
    }
  });
  return opened;
}

async function inStore(mode, work) {
  const database = await open();
  if (!database) return undefined;
  return new Promise((resolve, reject) => {
    const transaction = database.transaction('conversations', mode);
    const asked = work(transaction.objectStore('conversations'));
    transaction.oncomplete = () => resolve(asked.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

export const isKept = async () => Boolean(await open());

export async function save(conversation) {
  const copy = structuredClone(conversation);
  if (await open()) await inStore('readwrite', (store) => store.put(copy));
  else memory.set(copy.id, copy);
}

export async function load(id) {
  return (await open()) ? inStore('readonly', (store) => store.get(id)) : structuredClone(memory.get(id));
}

export async function remove(id) {
  memory.delete(id);
  await inStore('readwrite', (store) => store.delete(id));
}

export async function all() {
  const found = (await open()) ? await inStore('readonly', (store) => store.getAll()) : [...memory.values()];
  return found.sort((one, other) => other.updated - one.updated);
}

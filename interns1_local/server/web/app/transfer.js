// Conversations to a JSON file and back.

import { h, saveFile } from './dom.js';
import { t } from './language.js';
import * as store from './store.js';
import { readConversation, titleOf } from './tree.js';

const FORMAT = 'interns1-conversations';

export function exportChats(conversations) {
  const name = conversations.length === 1 ? (titleOf(conversations[0]) || 'conversation').replace(/[^\p{L}\p{N}]+/gu, '-').slice(0, 40) : 'conversations';
  saveFile(`${name}.json`, 'application/json', JSON.stringify({ format: FORMAT, version: 1, exported: new Date().toISOString(), conversations }, null, 1));
}

export function importChats(done, notice) {
  const input = h('input', { type: 'file', accept: '.json,application/json' });
  input.addEventListener('change', async () => {
    try {
      const value = JSON.parse(await input.files[0].text());
      const found = (value?.format === FORMAT && Array.isArray(value.conversations) ? value.conversations : []).map(readConversation).filter(Boolean);
      if (!found.length) throw new Error(t('nothing_to_import'));
      for (const conversation of found) await store.save(conversation);
      done(found[0].id);
      notice(t('imported', { count: found.length }));
    } catch (error) {
      notice(t('import_failed', { reason: error.message }));
    }
  });
  input.click();
}

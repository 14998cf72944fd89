// Asks for the server's API key.

import { dialog, h } from './dom.js';
import { t } from './language.js';

let asking = null;

export function askKey(wasWrong) {
  asking ??= new Promise((resolve) => {
    const input = h('input', { type: 'password', id: 'api-key', autocomplete: 'off', required: true });
    const form = h('form', { on: { submit: (event) => { event.preventDefault(); box.close(); } } },
      h('p', {}, wasWrong ? t('key_wrong') : t('key_needed')), h('label', { for: 'api-key' }, t('key')), input,
      h('button', { type: 'submit', class: 'primary' }, t('use_key')));
    const box = dialog(t('key'), form);
    box.addEventListener('close', () => { asking = null; resolve(input.value); });
    input.focus();
  });
  return asking;
}

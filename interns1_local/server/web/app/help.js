// What can be done here, and the list of keys.

import { dialog, h } from './dom.js';
import { t } from './language.js';

const KEYS = [
  ['Enter', 'send'], ['Shift + Enter', 'key_line'], ['Esc', 'key_stop'], ['/', 'key_draft'], ['↑', 'key_edit'],
  ['Alt + N', 'new_chat'], ['Alt + L', 'key_list'], ['Alt + M', 'key_model'], ['Alt + S', 'settings'], ['Alt + T', 'key_think'],
  ['Alt + R', 'regenerate'], ['Alt + A', 'attach'], ['?', 'key_help'],
];

export function showHelp() {
  dialog(t('help'),
    h('p', {}, t('help_text')),
    h('table', { class: 'keys' }, h('caption', {}, t('keys')), h('tbody', {}, ...KEYS.map(([keys, text]) => h('tr', {}, h('th', { scope: 'row' }, ...keys.split(' + ').flatMap((key, at) => [at ? ' + ' : '', h('kbd', {}, key)])), h('td', {}, t(text)))))),
    h('p', { class: 'hint' }, t('private')));
}

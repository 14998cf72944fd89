// What can be done here, and the list of keys.

import { dialog, h } from './dom.js';
import { t } from './language.js';

const KEYS = [
  ['Enter', 'key_send'], ['Shift + Enter', 'key_line'], ['Esc', 'key_stop'], ['/', 'key_draft'], ['↑', 'key_edit'],
  ['Alt + N', 'key_new'], ['Alt + L', 'key_list'], ['Alt + M', 'key_model'], ['Alt + S', 'key_settings'], ['Alt + T', 'key_think'],
  ['Alt + R', 'key_again'], ['Alt + A', 'key_attach'], ['?', 'key_help'],
];

export function showHelp() {
  dialog(t('help'),
    h('p', {}, t('help_text')),
    h('table', { class: 'keys' }, h('caption', {}, t('keys')), h('tbody', {}, ...KEYS.map(([keys, text]) => h('tr', {}, h('th', { scope: 'row' }, ...keys.split(' + ').flatMap((key, at) => [at ? ' + ' : '', h('kbd', {}, key)])), h('td', {}, t(text)))))),
    h('p', { class: 'hint' }, t('private')));
}

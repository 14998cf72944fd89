// How the model reads a text: its tokens, coloured by the vocabulary that each comes from.

import { postJson } from './api.js';
import { dialog, h } from './dom.js';
import { number, t } from './language.js';
import { settings } from './settings.js';

const SHOWN = 4000;

export async function showTokens(text) {
  const body = h('div', { class: 'tokens' }, h('p', { role: 'status' }, t('reading')));
  dialog(t('token_view'), body);
  try {
    const { content, details } = await postJson('/api/tokenize', { model: settings.model, content: text, details: true });
    body.replaceChildren(...view(content, details));
  } catch (error) {
    body.replaceChildren(h('p', { class: 'error' }, error.message));
  }
}

function view(content, tokens) {
  const letters = [...content];
  const kinds = [...new Set(tokens.map((token) => token.domain ?? 'text'))];
  const count = (kind) => tokens.filter((token) => (token.domain ?? 'text') === kind).length;
  const legend = kinds.map((kind) => h('span', { class: `token ${kind}` }, `${t(`vocabulary_${kind}`)}: ${number(count(kind))}`));
  const shown = tokens.slice(0, SHOWN).map((token) => {
    const text = token.start === null || token.start === undefined ? token.piece : letters.slice(token.start, token.end).join('');
    return h('span', { class: `token ${token.domain ?? 'text'}`, title: `${token.id} ${token.piece}` }, visible(text || token.piece));
  });
  return [
    h('p', {}, t('tokens_of_text', { tokens: number(tokens.length), letters: number(letters.length) })),
    h('div', { class: 'legend' }, ...legend), h('div', { class: 'token-run', tabindex: '0', role: 'region', 'aria-label': t('token_view') }, ...shown),
    tokens.length > SHOWN ? h('p', { class: 'hint' }, t('tokens_cut', { count: number(SHOWN) })) : '',
  ];
}

const visible = (text) => text.replace(/ /g, '·').replace(/\n/g, '↵').replace(/\t/g, '→');

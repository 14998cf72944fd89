// The page: one conversation on screen, the field to write in, and what the buttons and keys do.

import { Attachments } from './attachments.js';
import { byId, h } from './dom.js';
import { language, number, otherLanguage, t, translatePage } from './language.js';
import { MessageView } from './message_view.js';
import { Models } from './models.js';
import { change, settings } from './settings.js';
import { listenToKeys } from './shortcuts.js';
import { Sidebar } from './sidebar.js';
import * as store from './store.js';
import { nextTheme, showTheme } from './theme.js';
import { add, choose, chosenPath, newConversation, pathTo } from './tree.js';
import { addResults, answer } from './turn.js';

const SAVE_MS = 2500;
const EXAMPLES = ['example_molecule', 'example_name', 'example_sum', 'example_peptide'];

showTheme();
translatePage();
let conversation = newConversation();
let running = null;
const views = new Map();
const models = new Models(notice);
const attachments = new Attachments(notice, showDraftCost);
const sidebar = new Sidebar({ open, removed, renamed });

// --- what is on screen ---

function notice(text) {
  const place = byId('notice');
  place.textContent = text;
  place.hidden = !text;
  clearTimeout(notice.timer);
  notice.timer = setTimeout(() => { place.hidden = true; }, 12000);
}

const say = (text) => { byId('status').textContent = text; };

function showConversation() {
  const path = chosenPath(conversation);
  const ids = new Set(path.map((node) => node.id));
  for (const id of [...views.keys()]) if (!ids.has(id)) views.delete(id);
  byId('messages').replaceChildren(...path.map((node) => viewOf(node).element));
  for (const node of path) viewOf(node).showFoot();
  if (!path.length) byId('messages').append(welcome());
}

function viewOf(node) {
  if (!views.has(node.id)) views.set(node.id, new MessageView(conversation, node, acts));
  return views.get(node.id);
}

function welcome() {
  const example = (key) => h('button', { type: 'button', class: 'example', on: { click: () => { byId('draft').value = t(key); grow(); byId('draft').focus(); } } }, t(key));
  return h('div', { class: 'welcome' }, h('img', { src: '/web/icon.svg', alt: '', width: 56, height: 56 }), h('h1', {}, t('welcome')), h('p', {}, t('welcome_text')), h('div', { class: 'examples' }, ...EXAMPLES.map(example)));
}

const pane = byId('scroll');
let follows = true;
let lastTop = 0;
// Only the reader moves up; what grows moves the end away, and that does not count.
pane.addEventListener('scroll', () => {
  if (pane.scrollHeight - pane.scrollTop - pane.clientHeight < 60) follows = true;
  else if (pane.scrollTop < lastTop - 4) follows = false;
  lastTop = pane.scrollTop;
});
const toEnd = () => { if (follows) pane.scrollTop = pane.scrollHeight; };
new ResizeObserver(toEnd).observe(byId('messages'));

// --- conversations ---

async function keep() {
  clearTimeout(keep.timer);
  keep.timer = 0;
  conversation.model = settings.model;
  await store.save(conversation);
}

function keepSoon() {
  keep.timer ||= setTimeout(keep, SAVE_MS);
}

async function open(id) {
  if (id === conversation.id) return;
  stop();
  if (keep.timer) await keep();
  const found = id ? await store.load(id) : undefined;
  conversation = found ?? newConversation();
  // What ran when the page was closed has ended.
  for (const node of Object.values(conversation.nodes)) if (node.running) { delete node.running; node.stopped = true; }
  views.clear();
  history.replaceState(null, '', found ? `#${conversation.id}` : location.pathname);
  if (found) models.choose(conversation.model);
  follows = true;
  showConversation();
  sidebar.refresh(conversation.id);
  byId('draft').focus();
}

const newChat = () => { sidebar.slide(false); open(''); byId('draft').focus(); };

async function removed(id) {
  if (id === conversation.id) await open('');
  sidebar.refresh();
}

async function renamed(id, title) {
  const chat = id === conversation.id ? conversation : await store.load(id);
  chat.title = title;
  await store.save(chat);
  sidebar.refresh();
}

// --- turns ---

async function run(parent) {
  const model = models.current;
  if (!model || running) return;
  const controller = new AbortController();
  running = controller;
  showRunning();
  say(t('waiting'));
  const mine = conversation;
  let said = '';
  const changed = (node) => {
    const phase = node.content ? 'answering' : node.thinking ? 'thinking' : 'waiting';
    if (node.running && phase !== said) say(t(said = phase));
    if (mine !== conversation) return;
    views.get(node.id)?.update();
    keepSoon();
  };
  const added = (node) => { changed(node); if (mine === conversation) showConversation(); };
  setTimeout(() => models.watch(), 150);
  try {
    await answer(mine, parent, { model, canThink: models.can('thinking'), signal: controller.signal, changed, added });
  } finally {
    if (running === controller) running = null;
    showRunning();
    await (mine === conversation ? keep() : store.save(mine));
    sidebar.refresh();
    models.used();
  }
  const last = chosenPath(mine).at(-1);
  say(last.error ? t('failed', { reason: last.error }) : last.waiting ? t('call_waits') : last.stopped ? t('stopped') : t('answered', { text: last.content.slice(0, 2000) }));
}

function stop() {
  running?.abort();
  running = null;
  showRunning();
}

function showRunning() {
  byId('send').hidden = Boolean(running);
  byId('stop').hidden = !running;
  document.body.classList.toggle('running', Boolean(running));
}

async function send(text, media, parent) {
  const isFirst = !Object.keys(conversation.nodes).length;
  const node = add(conversation, parent, { role: 'user', content: text, media });
  follows = true;
  showConversation();
  if (isFirst) history.replaceState(null, '', `#${conversation.id}`);
  await keep();
  sidebar.refresh(conversation.id);
  await run(node.id);
}

const acts = {
  regenerate: (node) => { stop(); follows = true; run(turnStart(node).parent); },
  edit: (node, text) => { stop(); if (text.trim()) send(text, node.media ?? [], node.parent); },
  choose(node) { stop(); choose(conversation, node.id); showConversation(); keep(); },
  answerCalls(node, results) { const last = addResults(conversation, node, results); showConversation(); viewOf(node).finish(); run(last.id); },
  async tokens(text) { (await import('./tokens_view.js')).showTokens(text); },
  async tiles(item) { (await import('./tiles_view.js')).showTiles(item); },
};

// The first message of the model after the reader's, before its calls and their results.
function turnStart(node) {
  return pathTo(conversation, node.id).findLast((one, at, path) => path[at - 1]?.role === 'user' || at === 0) ?? node;
}

// --- the field to write in ---

const draft = byId('draft');
function grow() {
  draft.style.height = 'auto';
  draft.style.height = `${Math.min(draft.scrollHeight, innerHeight * 0.4)}px`;
}

function showDraftCost(tokens) {
  byId('draft-cost').textContent = tokens ? t('tokens_in_pictures', { count: number(tokens) }) : '';
}

byId('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = draft.value.trim();
  if (running || (!text && !attachments.items.length)) return;
  if (attachments.items.length && !models.can('vision')) return void notice(t('cannot_see', { model: settings.model }));
  const last = chosenPath(conversation).at(-1);
  if (last?.waiting) return void notice(t('call_waits'));
  draft.value = '';
  grow();
  send(text, attachments.take(), last?.id);
});
draft.addEventListener('input', grow);
draft.addEventListener('keydown', (event) => {
  if (event.isComposing) return;
  if (event.key === 'Enter' && !event.shiftKey) { event.preventDefault(); byId('composer').requestSubmit(); }
  if (event.key === 'ArrowUp' && !draft.value) {
    const last = chosenPath(conversation).findLast((node) => node.role === 'user');
    if (last) { event.preventDefault(); viewOf(last).edit(); }
  }
});

// --- buttons and keys ---

async function toggleSettings() {
  const panel = await import('./settings_panel.js');
  if (byId('settings').hidden) { panel.openSettings(models); byId('settings').querySelector('button').focus(); } else panel.closeSettings(true);
}

const help = async () => (await import('./help.js')).showHelp();

function showThink() {
  byId('think').checked = settings.think;
  byId('think-label').hidden = !models.can('thinking');
}

document.querySelector('.skip').addEventListener('click', (event) => { event.preventDefault(); draft.focus(); });
byId('new-chat').addEventListener('click', newChat);
byId('stop').addEventListener('click', () => { stop(); draft.focus(); });
byId('open-settings').addEventListener('click', toggleSettings);
byId('help').addEventListener('click', help);
byId('theme').addEventListener('click', () => notice(t(`theme_${nextTheme()}`)));
byId('language').textContent = language === 'zh' ? 'EN' : '中';
byId('language').addEventListener('click', otherLanguage);
byId('think').addEventListener('change', (event) => change({ think: event.target.checked }));
byId('read-draft').addEventListener('click', () => acts.tokens(draft.value || t('example_molecule')));
byId('export-chat').addEventListener('click', async () => (await import('./transfer.js')).exportChats([conversation]));
byId('export-all').addEventListener('click', async () => (await import('./transfer.js')).exportChats(await store.all()));
byId('import-chats').addEventListener('click', async () => (await import('./transfer.js')).importChats(async (id) => { await sidebar.refresh(); open(id); }, notice));
document.addEventListener('settings', () => { showThink(); attachments.countAll(); });
window.addEventListener('hashchange', () => open(location.hash.slice(1)));
window.addEventListener('pagehide', () => { if (keep.timer) keep(); });
listenToKeys({
  help, newChat, settings: toggleSettings, list: () => { sidebar.slide(true); (byId('chats').querySelector('button') ?? byId('new-chat')).focus(); }, model: () => byId('model').focus(), attach: () => byId('attach').click(),
  think: () => { if (models.can('thinking')) { change({ think: !settings.think }); notice(t(settings.think ? 'thinks' : 'thinks_not')); } },
  again: () => { const last = chosenPath(conversation).findLast((node) => node.role === 'assistant'); if (last) acts.regenerate(last); },
  async escape() { if (running) stop(); else if (!byId('settings').hidden) (await import('./settings_panel.js')).closeSettings(true); },
});

showConversation();
draft.focus();
try {
  await models.refresh();
} catch (error) {
  notice(error.message);
}
showThink();
if (location.hash.length > 1) await open(location.hash.slice(1));
else sidebar.refresh();
document.documentElement.dataset.ready = 'true';

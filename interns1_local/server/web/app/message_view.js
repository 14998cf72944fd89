// One message on the page: what it says, what it thought and called, and what can be done with it.

import { copyText, h, icon, iconButton } from './dom.js';
import { number, t } from './language.js';
import { render } from './markdown.js';
import { guess, scienceOf } from './science.js';
import { inText } from './science_text.js';
import { siblings } from './tree.js';

export class MessageView {
  // `acts` holds what a button does: regenerate, edit, choose, answerCalls, tokens, tiles.
  constructor(conversation, node, acts) {
    Object.assign(this, { conversation, node, acts, drawn: '', wait: 40, timer: 0, busy: false });
    this.text = h('div', { class: 'text' });
    this.thought = node.role === 'assistant' ? thoughtView() : null;
    this.calls = h('div');
    this.foot = h('div', { class: 'message-foot' });
    const name = t(`role_${node.role}`);
    this.element = h('article', { class: `message ${node.role}`, 'aria-label': name },
      h('h3', { class: 'visually-hidden' }, name), this.thought?.box, mediaView(node, acts), this.text, this.calls, this.foot);
    this.finish();
  }

  // Called with every piece of a stream; draws at most as often as the page can keep up with.
  update() {
    if (!this.node.running) {
      clearTimeout(this.timer);
      this.timer = 0;
      this.finish();
    } else if (!this.timer && !this.busy) {
      this.timer = setTimeout(() => { this.timer = 0; this.drawRunning(); }, this.wait);
    }
  }

  async drawRunning() {
    const started = performance.now();
    this.busy = true;
    this.thought?.show(this.node);
    if (this.node.content !== this.drawn) {
      const text = this.node.content;
      const science = await this.scienceSoFar(text);
      const fragment = await render(text, science.spans, inText);
      if (this.node.running) {
        this.text.replaceChildren(fragment);
        if (science.end) (await import('./science_view.js')).addDrawings(this.text, science);
        this.drawn = text;
      }
    }
    this.busy = false;
    this.wait = Math.min(1000, Math.max(40, 3 * (performance.now() - started)));
    if (this.node.running && this.node.content !== this.drawn) this.update();
  }

  // The server reads the whole paragraphs, a new one at a time; what follows them is guessed.
  async scienceSoFar(text) {
    const end = text.lastIndexOf('\n\n') + 1;
    if (end > (this.read?.end ?? 0) && performance.now() > (this.readNext ?? 0)) {
      this.read = { end, ...(await scienceOf(text.slice(0, end))) };
      this.readNext = performance.now() + 1500;
    }
    const known = this.read ?? { end: 0, spans: [] };
    return { ...known, spans: [...known.spans, ...guess(text).filter((span) => span.start >= known.end)] };
  }

  async finish() {
    const { node } = this;
    this.thought?.show(node);
    this.element.classList.toggle('running', Boolean(node.running));
    this.element.setAttribute('aria-busy', String(Boolean(node.running)));
    this.calls.replaceChildren(...(node.calls ?? []).map((call) => callView(node, call)), ...answerForm(this));
    this.showFoot();
    if (node.role === 'tool') return void this.text.replaceChildren(toolResult(node));
    if (node.running) return;
    const before = guess(node.content);
    await this.showText(before);
    const science = await scienceOf(node.content);
    if (this.node.running) return;
    if (science.spans.length || before.length) await this.showText(science.spans);
    if (science.spans.length) (await import('./science_view.js')).addDrawings(this.text, science);
  }

  async showText(spans) {
    const { node } = this;
    if (node.role === 'user') {
      this.text.replaceChildren(h('p', { class: 'plain' }, ...plainParts(node.content, spans)));
      return;
    }
    const parts = [await render(node.content, spans, inText)];
    if (!node.content && !node.error && !node.stopped && !node.calls?.length) parts.push(h('p', { class: 'hint' }, t('no_words')));
    if (node.error) parts.push(h('p', { class: 'error', role: 'alert' }, node.error));
    if (node.schema && !node.error && !node.stopped && !node.calls?.length) parts.push(await verdict(node));
    this.text.replaceChildren(...parts);
  }

  showFoot() {
    const { node, acts } = this;
    if (node.running || node.role === 'tool') return void this.foot.replaceChildren();
    const buttons = [iconButton('copy', t('copy'), () => copyText(node.content))];
    if (node.role === 'user') buttons.push(iconButton('edit', t('edit'), () => this.edit()));
    if (node.role === 'assistant') buttons.push(iconButton('again', t('regenerate'), () => acts.regenerate(node)));
    if (node.content) buttons.push(iconButton('token', t('token_view'), () => acts.tokens(node.content)));
    this.foot.replaceChildren(...branchSwitch(this), ...buttons, h('span', { class: 'stats' }, statsText(node)));
  }

  edit() {
    const area = h('textarea', { value: this.node.content, 'aria-label': t('edit'), rows: Math.min(12, this.node.content.split('\n').length + 1) });
    const done = () => { form.remove(); this.text.hidden = false; this.foot.hidden = false; };
    const form = h('form', { class: 'edit', on: { submit: (event) => { event.preventDefault(); done(); this.acts.edit(this.node, area.value); } } }, area,
      h('div', { class: 'edit-buttons' }, h('button', { type: 'button', class: 'small', on: { click: done } }, t('cancel')), h('button', { type: 'submit', class: 'small primary' }, t('send'))));
    area.addEventListener('keydown', (event) => {
      if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); }
      if (event.key === 'Escape') { event.stopPropagation(); done(); }
    });
    this.text.after(form);
    this.text.hidden = true;
    this.foot.hidden = true;
    area.focus();
  }
}

function thoughtView() {
  const label = h('span', {});
  const text = h('div', { class: 'thought-text' });
  const box = h('details', { class: 'thought', hidden: true }, h('summary', {}, label), text);
  const show = (node) => {
    box.hidden = !node.thinking;
    if (!node.thinking) return;
    if (text.textContent !== node.thinking) text.textContent = node.thinking;
    const over = node.thinkSeconds !== undefined;
    const seconds = over ? node.thinkSeconds : (performance.now() - (node.thinkStart ?? performance.now())) / 1000;
    const tokens = node.stats?.thinking_count ?? node.thinkPieces ?? 0;
    label.textContent = t(over || !node.running ? 'thought_for' : 'thinking_for', { seconds: number(Math.max(seconds, 0.01), seconds < 1 ? 2 : seconds < 10 ? 1 : 0), tokens: number(tokens) });
    box.classList.toggle('running', Boolean(node.running) && !over);
  };
  return { box, show };
}

function mediaView(node, acts) {
  if (!node.media?.length) return null;
  return h('div', { class: 'media' }, ...node.media.map((item) => {
    const source = `data:${item.type};base64,${item.data}`;
    const shown = item.type.startsWith('image/') ? h('img', { src: source, alt: item.name || t('picture') }) : h('video', { src: source, controls: true, 'aria-label': item.name || t('video') });
    return h('figure', {}, shown, h('figcaption', {}, item.tokens ? t('tokens', { count: number(item.tokens) }) : item.name, iconButton('tiles', t('show_tiles'), () => acts.tiles(item))));
  }));
}

function plainParts(text, spans) {
  const parts = [];
  let at = 0;
  for (const span of spans) {
    parts.push(text.slice(at, span.start), inText(span));
    at = span.end;
  }
  return [...parts, text.slice(at)];
}

function branchSwitch({ conversation, node, acts }) {
  const all = siblings(conversation, node);
  if (all.length < 2) return [];
  const at = all.indexOf(node);
  const go = (step) => () => acts.choose(all[at + step]);
  const count = t('branch', { at: at + 1, count: all.length });
  return [h('span', { class: 'branches', role: 'group', 'aria-label': t('branches') },
    iconButton('left', t('previous_branch'), go(-1), { disabled: at === 0 }), h('span', { 'aria-label': count }, `${at + 1}/${all.length}`),
    iconButton('right', t('next_branch'), go(1), { disabled: at === all.length - 1 }))];
}

function callView(node, call) {
  return h('div', { class: 'call' }, icon('tool'), h('code', {}, `${call.name}(${JSON.stringify(call.arguments)})`), h('span', { class: 'call-state' }, t(node.waiting ? 'call_waits' : 'called')));
}

// A call that the page cannot answer itself waits for the reader.
function answerForm(view) {
  const { node, acts } = view;
  if (!node.waiting) return [];
  const areas = node.calls.map((call, index) => h('textarea', { rows: 2, required: true, id: `result-${node.id}-${index}`, placeholder: '{"result": ...}' }));
  return [h('form', { class: 'call-answer', on: { submit: (event) => { event.preventDefault(); acts.answerCalls(node, areas.map((area) => area.value)); } } },
    ...node.calls.flatMap((call, index) => [h('label', { for: `result-${node.id}-${index}` }, t('result_of', { name: call.name })), areas[index]]),
    h('button', { type: 'submit', class: 'small primary' }, t('send_results')))];
}

function toolResult(node) {
  return h('div', { class: 'call result' }, icon('tool'), h('span', {}, t('result_of', { name: node.toolName })), h('code', {}, node.content));
}

async function verdict(node) {
  let value;
  try {
    value = JSON.parse(node.content);
  } catch (error) {
    return h('p', { class: 'verdict invalid' }, `✗ ${t('not_json')}: ${error.message}`);
  }
  const { check } = await import('./schema_check.js');
  const { errors, unchecked } = check(value, node.schema);
  const rest = unchecked.length ? ` ${t('not_checked', { names: unchecked.join(', ') })}` : '';
  if (errors.length) return h('p', { class: 'verdict invalid' }, `✗ ${t('schema_invalid')}: ${errors.slice(0, 5).join('; ')}.${rest}`);
  return h('p', { class: 'verdict valid' }, `✓ ${t('schema_valid')}${rest}`);
}

function statsText({ stats, stopped, model, role }) {
  if (role !== 'assistant') return '';
  const parts = [];
  const speed = stats?.eval_count / (stats?.eval_duration / 1e9);
  if (stopped) parts.push(t('stopped'));
  if (stats?.cut) parts.push(t('cut'));
  if (stats?.messages_dropped) parts.push(t('dropped', { count: stats.messages_dropped }));
  if (stats?.eval_count) parts.push(t('tokens', { count: number(stats.eval_count) }));
  if (Number.isFinite(speed)) parts.push(t('speed', { speed: number(speed, speed < 100 ? 1 : 0) }));
  if (model) parts.push(model.replace(/:latest$/, ''));
  return parts.join(' · ');
}

// Which models there are, which one is chosen, and whether it is in memory.

import { getJson, postJson } from './api.js';
import { byId, h } from './dom.js';
import { number, t } from './language.js';
import { change, settings } from './settings.js';

const QUIET_MS = 15000;
const LOADING_MS = 400;

export class Models {
  constructor(notice) {
    Object.assign(this, { all: [], loaded: [], loading: [], notice, timer: 0, asked: '' });
    this.picker = byId('model');
    this.picker.addEventListener('change', () => this.choose(this.picker.value));
    byId('load-model').addEventListener('click', () => this.load());
    document.addEventListener('visibilitychange', () => { if (!document.hidden) this.watch(); });
  }

  get current() {
    return this.all.find((model) => model.name === settings.model);
  }

  can(ability) {
    return Boolean(this.current?.capabilities?.includes(ability));
  }

  async refresh() {
    const { models } = await getJson('/api/tags');
    this.all = models.filter((model) => !model.capabilities?.length || model.capabilities.includes('completion'));
    // The shipped model is made on its first use.
    if (!this.all.some((model) => /^nano(:latest)?$/.test(model.name))) this.all.push({ name: 'nano', capabilities: ['completion', 'vision', 'tools', 'thinking'], details: {}, comes: true });
    if (!this.current) change({ model: this.all[0].name });
    this.picker.replaceChildren(...this.all.map((model) => h('option', { value: model.name }, labelOf(model))));
    this.picker.value = settings.model;
    await this.watch();
  }

  choose(name) {
    if (name === settings.model || !this.all.some((model) => model.name === name)) return;
    change({ model: name });
    this.picker.value = name;
    this.watch();
  }

  async load() {
    this.asked = settings.model;
    this.show();
    const done = postJson('/api/chat', { model: settings.model, messages: [], stream: false, options: settings.options });
    setTimeout(() => this.watch(), 100);
    try {
      await done;
    } catch (error) {
      this.notice(error.message);
    }
    this.asked = '';
    await this.used();
  }

  // After an answer or a load: the shipped model is there from its first use on.
  used() {
    return this.current?.comes ? this.refresh() : this.watch();
  }

  // Asks what is in memory: often while something loads, seldom otherwise, never when nobody looks.
  async watch() {
    clearTimeout(this.timer);
    if (document.hidden) return;
    try {
      const [{ models }, { loading }] = await Promise.all([getJson('/api/ps'), getJson('/api/status')]);
      Object.assign(this, { loaded: models, loading: loading ?? [] });
      this.show();
    } catch {
      byId('load-text').textContent = t('no_server');
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.watch(), this.loading.length || this.asked ? LOADING_MS : QUIET_MS);
  }

  show() {
    const name = settings.model;
    const matches = (model) => model === name || model === `${name}:latest` || `${model}:latest` === name;
    const coming = this.loading.find((one) => matches(one.model));
    const here = this.loaded.find((one) => matches(one.name));
    const bar = byId('load-progress');
    const busy = coming || this.asked === name;
    bar.hidden = !busy;
    if (coming && coming.progress > 0) bar.value = coming.progress; else bar.removeAttribute('value');
    byId('load-model').hidden = Boolean(busy || here);
    byId('load-model').textContent = t('load');
    const state = busy ? t('loading', { percent: number(100 * (coming?.progress ?? 0)) }) : here ? t('loaded', { context: number(here.context_length) }) : t('not_loaded');
    if (byId('load-text').textContent !== state) byId('load-text').textContent = state;
    byId('load-state').dataset.state = busy ? 'loading' : here ? 'loaded' : 'away';
  }
}

function labelOf({ name, details }) {
  const facts = [details?.parameter_size, details?.quantization_level].filter(Boolean).join(' ');
  return facts ? `${name.replace(/:latest$/, '')}  (${facts})` : name;
}

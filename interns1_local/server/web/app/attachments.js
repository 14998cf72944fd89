// Pictures and films before they are sent: dropped, pasted, chosen or taken, each with what it will cost.

import { postJson } from './api.js';
import { costText } from './cost_text.js';
import { byId, h, iconButton } from './dom.js';
import { t } from './language.js';
import { settings } from './settings.js';

const MAX_BYTES = 150 * 2 ** 20;

export class Attachments {
  constructor(notice, changed) {
    Object.assign(this, { items: [], notice, changed });
    this.list = byId('attachments');
    byId('attach').addEventListener('click', () => byId('files').click());
    byId('files').addEventListener('change', (event) => { this.addFiles(event.target.files); event.target.value = ''; });
    byId('camera').addEventListener('click', async () => (await import('./camera.js')).takePicture((file) => this.addFiles([file]), notice));
    const main = document.querySelector('main');
    main.addEventListener('dragover', (event) => { if ([...event.dataTransfer.types].includes('Files')) { event.preventDefault(); main.classList.add('dropping'); } });
    main.addEventListener('dragleave', (event) => { if (!main.contains(event.relatedTarget)) main.classList.remove('dropping'); });
    main.addEventListener('drop', (event) => { event.preventDefault(); main.classList.remove('dropping'); this.addFiles(event.dataTransfer.files); });
    document.addEventListener('paste', (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (files.length) { event.preventDefault(); this.addFiles(files); }
    });
  }

  async addFiles(files) {
    for (const file of files) {
      if (!/^(image|video)\//.test(file.type)) this.notice(t('not_a_picture', { name: file.name }));
      else if (file.size > MAX_BYTES) this.notice(t('file_too_large', { name: file.name, megabytes: MAX_BYTES / 2 ** 20 }));
      else this.items.push({ name: file.name, type: file.type.split(';')[0], data: await base64(file), cost: null });
    }
    this.show();
    await this.countAll();
  }

  async countAll() {
    const { model } = settings;
    const { max_patches: most, max_total_patches: all, num_frames: frames, fps } = settings.options;
    const asked = JSON.stringify([model, most, all, frames, fps]);
    const stale = this.items.filter((item) => item.countedFor !== asked);
    if (!stale.length) return;
    await Promise.all(stale.map(async (item) => {
      item.countedFor = asked;
      try {
        item.cost = await postJson('/api/tiles', { model, image: item.data, options: settings.options });
        item.tokens = item.cost.tokens;
        item.problem = null;
      } catch (error) {
        item.problem = error.message;
      }
    }));
    this.show();
  }

  show() {
    this.list.replaceChildren(...this.items.map((item) => h('li', { class: item.problem ? 'bad' : '' },
      item.type.startsWith('image/') ? h('img', { src: `data:${item.type};base64,${item.data}`, alt: item.name }) : h('video', { src: `data:${item.type};base64,${item.data}`, muted: true }),
      h('span', { class: 'cost' }, h('strong', {}, item.name), h('span', {}, costText(item))),
      iconButton('tiles', t('show_tiles'), async () => (await import('./tiles_view.js')).showTiles(item)),
      iconButton('close', t('remove', { name: item.name }), () => { this.items = this.items.filter((other) => other !== item); this.show(); byId('draft').focus(); }))));
    this.changed(this.items.reduce((sum, item) => sum + (item.tokens ?? 0), 0));
  }

  take() {
    const media = this.items.map(({ name, type, data, tokens }) => ({ name, type, data, tokens }));
    this.items = [];
    this.show();
    return media;
  }
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(',') + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

// The tiles of a picture, or the frames of a film, as the model will see them.

import { postJson } from './api.js';
import { costText } from './cost_text.js';
import { dialog, h } from './dom.js';
import { t } from './language.js';
import { settings } from './settings.js';

export async function showTiles(item) {
  const body = h('div', { class: 'tiles' }, h('p', { role: 'status' }, t('cutting')));
  dialog(t('tiles'), body);
  try {
    const cut = await postJson('/api/tiles', { model: settings.model, image: item.data, options: settings.options, pictures: true });
    const picture = (data, at) => h('img', { src: `data:image/png;base64,${data}`, alt: t(cut.kind === 'video' ? 'frame_number' : 'tile_number', { number: at + 1 }) });
    const inGrid = cut.kind === 'image' ? cut.columns * cut.rows : cut.pictures.length;
    const grid = h('div', { class: `tile-grid ${cut.kind}` }, ...cut.pictures.slice(0, inGrid).map(picture));
    if (cut.kind === 'image') grid.style.setProperty('--columns', cut.columns);
    body.replaceChildren(h('p', {}, costText({ cost: cut }), ` · ${cut.tile_size} × ${cut.tile_size}`), grid);
    if (cut.pictures.length > inGrid) body.append(h('h3', {}, t('thumbnail')), h('div', { class: 'tile-grid' }, ...cut.pictures.slice(inGrid).map((data, at) => picture(data, inGrid + at))));
    if (cut.left_out) body.append(h('p', { class: 'hint' }, t('left_out', { count: cut.left_out })));
  } catch (error) {
    body.replaceChildren(h('p', { class: 'error' }, error.message));
  }
}

// What a picture or film costs, in words.

import { number, t } from './language.js';

export function costText({ cost, problem }) {
  if (problem) return problem;
  if (!cost) return t('counting');
  const tokens = t('tokens', { count: number(cost.tokens) });
  if (cost.kind === 'video') return `${tokens} · ${t('frames', { count: number(cost.frames) })}`;
  return `${tokens} · ${t('grid', { columns: cost.columns, rows: cost.rows })}${cost.thumbnail ? ` + ${t('thumbnail')}` : ''}`;
}

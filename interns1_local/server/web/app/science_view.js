// Molecules and sequences drawn beside a text, each after the paragraph that names it.

import { copyText, h, icon, saveFile } from './dom.js';
import { number, t } from './language.js';
import { sequenceView } from './sequence_view.js';

// Puts the drawings after the blocks that name their molecules; a molecule is drawn once in a message.
export function addDrawings(root, { spans, hint }) {
  const seen = new Set();
  const known = new Map(spans.map((span) => [span.value, span]));
  let missing = false;
  for (const element of root.querySelectorAll('[data-science]')) {
    const span = known.get(element.dataset.science);
    if (!span || seen.has(span.value)) continue;
    seen.add(span.value);
    if (span.kind === 'fasta') {
      shelfAfter(element, root).append(sequenceView(span.value));
      // The whole of a long one stands in its figure.
      if (span.value.length > 40) element.textContent = `${span.value.slice(0, 24)}…`;
    } else if (span.svg) shelfAfter(element, root).append(moleculeCard(span));
    else if (span.kind === 'smiles' && hint) missing = true;
    else if (span.error) element.title = t('not_drawn', { reason: span.error });
  }
  if (missing) root.append(h('p', { class: 'hint', role: 'note' }, t('rdkit_missing'), ' ', h('code', {}, 'pip install "interns1-local[science]"')));
}

function shelfAfter(element, root) {
  let block = element;
  while (block.parentElement && block.parentElement !== root && !block.parentElement.matches('li, blockquote')) block = block.parentElement;
  const next = block.nextElementSibling;
  if (next?.classList.contains('shelf')) return next;
  const shelf = h('div', { class: 'shelf' });
  block.after(shelf);
  return shelf;
}

function moleculeCard(span) {
  const said = (button) => { button.classList.add('done'); setTimeout(() => button.classList.remove('done'), 1200); };
  const button = (label, act, name = 'copy') => {
    const made = h('button', { type: 'button', class: 'small quiet', on: { click: () => { act(); said(made); } } }, icon(name), label);
    return made;
  };
  return h('figure', { class: 'molecule' },
    h('img', { src: `data:image/svg+xml;charset=utf-8,${encodeURIComponent(span.svg)}`, alt: t('drawing_of', { smiles: span.value, formula: span.formula }) }),
    h('figcaption', {}, h('span', {}, ...formula(span.formula)), h('span', { class: 'weight' }, `${number(span.weight, 2)} g/mol`)),
    h('div', { class: 'molecule-actions' },
      button('SMILES', () => copyText(span.value)), button('SVG', () => copyText(span.svg)),
      button(t('save_svg'), () => saveFile(`${span.formula}.svg`, 'image/svg+xml', span.svg), 'save')));
}

// C9H8O4 with its counts lowered; a charge raised.
function formula(text) {
  const parts = text.match(/\d+|[+-]\d*|[^\d+-]+/g) ?? [];
  return parts.map((part) => (/^\d/.test(part) ? h('sub', {}, part) : /^[+-]/.test(part) ? h('sup', {}, part.replace('-', '−')) : part));
}

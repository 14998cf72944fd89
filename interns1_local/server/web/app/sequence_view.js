// A protein in tens, numbered, each residue in the colour of its class.

import { copyText, h, icon } from './dom.js';
import { number, t } from './language.js';

const CLASSES = { aliphatic: 'AVLIM', aromatic: 'FWY', polar: 'STNQ', positive: 'KRH', negative: 'DE', special: 'CGP' };
const CLASS_OF = Object.fromEntries(Object.entries(CLASSES).flatMap(([name, letters]) => [...letters].map((letter) => [letter, name])));
const SHOWN = 6000;

export function sequenceView(text) {
  const letters = residues(text);
  const groups = [];
  for (let at = 0; at < Math.min(letters.length, SHOWN); at += 10) {
    groups.push(h('span', { class: 'ten' }, h('span', { class: 'place', 'aria-hidden': 'true' }, String(at + 1)), h('span', { class: 'letters' }, ...runs(letters.slice(at, at + 10)))));
  }
  const copy = h('button', { type: 'button', class: 'small quiet', on: { click: () => copyText(letters) } }, icon('copy'), t('copy'));
  return h('figure', { class: 'sequence' },
    h('figcaption', {}, t('sequence_of', { count: number(letters.length) }), copy),
    h('div', { class: 'tens', role: 'img', 'aria-label': t('sequence_label', { count: letters.length, start: letters.slice(0, 20) }) }, ...groups),
    letters.length > SHOWN ? h('p', { class: 'hint' }, t('sequence_cut', { count: number(SHOWN) })) : null,
    h('div', { class: 'legend' }, ...Object.keys(CLASSES).map((name) => h('span', {}, h('span', { class: `residue ${name}` }, CLASSES[name]), t(`residue_${name}`)))));
}

// A FASTA text may start with a line that names the protein.
function residues(text) {
  return text.replace(/^>.*$/gm, '').replace(/[^A-Za-z*-]/g, '').toUpperCase();
}

function runs(letters) {
  const found = [];
  for (const letter of letters) {
    const name = CLASS_OF[letter] ?? 'other';
    const last = found.at(-1);
    if (last?.name === name) last.text += letter;
    else found.push({ name, text: letter });
  }
  return found.map(({ name, text }) => h('span', { class: `residue ${name}` }, text));
}

// An answer's Markdown as elements. HTML in it stays text, pictures from elsewhere become links, and what is left is
// sanitised. Notation of science is taken out first, as brackets and stars mean something else in Markdown.

import { copyText, h } from './dom.js';
import { t } from './language.js';
import { loadScript } from './load_script.js';

const OPEN = '\uE000';
const CLOSE = '\uE001';
// Longer texts are shown as they are.
const LONGEST = 400000;
const TAGS = ['p', 'br', 'hr', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'ul', 'ol', 'li', 'blockquote', 'pre', 'code', 'em', 'strong', 'del', 'a', 'img', 'table', 'thead', 'tbody', 'tr', 'th', 'td', 'span', 'div', 'input'];
const ATTRIBUTES = ['href', 'src', 'alt', 'title', 'start', 'align', 'class', 'type', 'checked', 'disabled'];
const CLASSES = /^(math-inline|math-block|language-[\w+#.-]{1,32})$/;
const PICTURE = /^data:image\/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+$/;
const LINK = /^(https?:\/\/|mailto:)/i;

let ready = null;

function loadMarkdown() {
  ready ??= Promise.all([import('../vendor/marked.js'), loadScript('/web/vendor/purify.min.js')]).then(([{ Marked }]) => {
    const { DOMPurify } = window;
    DOMPurify.addHook('uponSanitizeAttribute', (node, data) => {
      if (data.attrName === 'class') data.keepAttr = CLASSES.test(data.attrValue);
      if (data.attrName === 'href') data.keepAttr = LINK.test(data.attrValue);
      if (data.attrName === 'src') data.keepAttr = PICTURE.test(data.attrValue);
    });
    return { parser: markdownParser(Marked), purify: DOMPurify };
  });
  return ready;
}

// `spans` is [{start, end, ...}] in UTF-16; `place(span)` makes the element that stands for one.
export async function render(text, spans = [], place = null) {
  if (text.length > LONGEST) return plain(text);
  const { parser, purify } = await loadMarkdown();
  let html;
  try {
    html = parser.parse(withMarks(text, spans));
  } catch {
    return plain(text); // nested deeper than the parser's stack
  }
  const fragment = purify.sanitize(html, { ALLOWED_TAGS: TAGS, ALLOWED_ATTR: ATTRIBUTES, ALLOW_DATA_ATTR: false, ALLOW_ARIA_ATTR: false, RETURN_DOM_FRAGMENT: true });
  putBack(fragment, spans, text, place);
  for (const link of fragment.querySelectorAll('a')) Object.assign(link, { target: '_blank', rel: 'noopener noreferrer nofollow' });
  for (const box of fragment.querySelectorAll('input')) if (box.type === 'checkbox') box.disabled = true; else box.remove();
  for (const code of fragment.querySelectorAll('pre > code')) frameCode(code);
  for (const table of fragment.querySelectorAll('table')) {
    const frame = h('div', { class: 'table-frame', tabindex: '0', role: 'region', 'aria-label': t('table') });
    table.replaceWith(frame);
    frame.append(table);
  }
  const formulas = fragment.querySelectorAll('.math-inline, .math-block');
  if (formulas.length) (await import('./math.js')).renderFormulas(formulas);
  return fragment;
}

function plain(text) {
  const fragment = document.createDocumentFragment();
  fragment.append(h('p', { class: 'plain' }, text));
  return fragment;
}

function withMarks(text, spans) {
  let out = '';
  let at = 0;
  const clean = (piece) => piece.replace(/[\uE000\uE001]/g, '\uFFFD');
  spans.forEach((span, index) => {
    out += `${clean(text.slice(at, span.start))}${OPEN}${index}${CLOSE}`;
    at = span.end;
  });
  return out + clean(text.slice(at));
}

const MARK = /\uE000(\d+)\uE001/;

function putBack(fragment, spans, text, place) {
  const walker = document.createTreeWalker(fragment, NodeFilter.SHOW_TEXT);
  const nodes = [];
  while (walker.nextNode()) if (MARK.test(walker.currentNode.data)) nodes.push(walker.currentNode);
  for (const node of nodes) {
    const pieces = node.data.split(MARK);
    const literal = node.parentElement?.closest('.math-inline, .math-block');
    node.replaceWith(...pieces.map((piece, at) => {
      const span = at % 2 ? spans[Number(piece)] : null;
      if (!span) return piece;
      return place && !literal ? place(span) : text.slice(span.start, span.end);
    }));
  }
  for (const element of fragment.querySelectorAll('[href], [src], [alt], [title]')) {
    for (const name of ['href', 'src', 'alt', 'title']) {
      const value = element.getAttribute(name);
      if (!value?.match(/\uE000|%EE%80%80/i)) continue;
      // A mark in an address is no address of the text's own.
      if (name === 'href' || name === 'src') element.removeAttribute(name);
      else element.setAttribute(name, value.replace(new RegExp(MARK, 'g'), (_, at) => spans[at]?.value ?? ''));
    }
  }
}

function frameCode(code) {
  const pre = code.parentElement;
  const name = [...code.classList].find((one) => one.startsWith('language-'))?.slice(9) ?? '';
  const button = h('button', { type: 'button', class: 'small quiet', on: { click: () => copyText(code.textContent) } }, t('copy'));
  const frame = h('div', { class: 'code-frame' }, h('div', { class: 'code-head' }, h('span', {}, name), button));
  pre.replaceWith(frame);
  pre.tabIndex = 0;
  frame.append(pre);
}

const escaped = (text) => text.replace(/[&<>"']/g, (letter) => `&#${letter.codePointAt(0)};`);

function markdownParser(Marked) {
  const formula = (name, level, start, rule) => ({
    name, level,
    start: (source) => source.search(start) < 0 ? undefined : source.search(start),
    tokenizer(source) {
      const found = rule.exec(source);
      return found ? { type: name, raw: found[0], text: found[1] ?? found[2] } : undefined;
    },
    renderer: (token) => (level === 'block' ? `<div class="math-block">${escaped(token.text)}</div>` : `<span class="math-${name === 'displayInText' ? 'block' : 'inline'}">${escaped(token.text)}</span>`),
  });
  const parser = new Marked({ gfm: true, breaks: true });
  parser.use({
    extensions: [
      formula('display', 'block', /\$\$|\\\[/, /^ {0,3}(?:\$\$([^$]{1,4000}?)\$\$|\\\[([^]{1,4000}?)\\\]) *(?:\n|$)/),
      formula('displayInText', 'inline', /\$\$|\\\[/, /^(?:\$\$([^$]{1,4000}?)\$\$|\\\[([^]{1,4000}?)\\\])/),
      formula('inline', 'inline', /\$|\\\(/, /^(?:\$(?!\s)([^$\n]{1,1000}?)(?<!\s)\$(?!\d)|\\\(([^\n]{1,1000}?)\\\))/),
    ],
    renderer: {
      html: ({ text }) => escaped(text),
      image({ href, text }) {
        if (PICTURE.test(href)) return `<img src="${escaped(href)}" alt="${escaped(text)}">`;
        const shown = escaped(text || href);
        return LINK.test(href) ? `<a href="${escaped(href)}">${shown}</a>` : shown;
      },
    },
  });
  return parser;
}

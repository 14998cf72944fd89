// LaTeX as MathML, which browsers draw themselves. The library comes with the first formula.

import { h } from './dom.js';
import { loadScript } from './load_script.js';

let styled = false;

export async function renderFormulas(places) {
  if (!styled) {
    styled = true;
    document.head.append(h('link', { rel: 'stylesheet', href: '/web/vendor/temml.css' }));
  }
  try {
    await loadScript('/web/vendor/temml.min.js');
  } catch {
    return; // the source stays readable
  }
  for (const place of places) {
    const source = place.textContent;
    try {
      window.temml.render(source, place, { displayMode: place.classList.contains('math-block'), throwOnError: true, trust: false, maxSize: [20, 20], maxExpand: 200 });
    } catch {
      place.replaceChildren(h('code', {}, source));
    }
  }
}

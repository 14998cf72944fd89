// The element that stands in a text for a molecule, a sequence or a name.

import { h } from './dom.js';
import { t } from './language.js';

export function inText(span) {
  return h('code', { class: `science ${span.kind}`, title: t(`kind_${span.kind}`), data: { science: span.value } }, span.value);
}

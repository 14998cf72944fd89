// What the keyboard does. `help.js` lists it.

import { byId } from './dom.js';

// Alt with a letter writes nothing on most keyboards; the code is the key's place, whatever it writes.
export function listenToKeys(acts) {
  const alt = { KeyN: acts.newChat, KeyL: acts.list, KeyM: acts.model, KeyS: acts.settings, KeyT: acts.think, KeyR: acts.again, KeyA: acts.attach };
  document.addEventListener('keydown', (event) => {
    if (event.isComposing || document.querySelector('dialog[open]')) return;
    const writes = event.target.matches('input:not([type=checkbox]), textarea, select');
    if (event.altKey && !event.ctrlKey && !event.metaKey && alt[event.code]) {
      event.preventDefault();
      alt[event.code]();
    } else if (event.key === 'Escape') acts.escape();
    else if (!writes && !event.ctrlKey && !event.metaKey && event.key === '?') { event.preventDefault(); acts.help(); }
    else if (!writes && event.key === '/') { event.preventDefault(); byId('draft').focus(); }
  });
}

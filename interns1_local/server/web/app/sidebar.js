// The list of conversations.

import { byId, h, iconButton } from './dom.js';
import { language, t } from './language.js';
import * as store from './store.js';

export class Sidebar {
  // `acts`: open(id), removed(id), renamed(id, title).
  constructor(acts) {
    Object.assign(this, { acts, current: '', found: [] });
    byId('find-chat').addEventListener('input', () => this.show());
    byId('show-sidebar').addEventListener('click', () => { this.slide(true); byId('new-chat').focus(); });
    for (const id of ['hide-sidebar', 'shade']) byId(id).addEventListener('click', () => this.slide(false));
    byId('sidebar').addEventListener('keydown', (event) => { if (event.key === 'Escape') { this.slide(false); byId('show-sidebar').focus(); } });
  }

  // On a narrow screen; a wide one always shows the list.
  slide(open) {
    document.body.classList.toggle('sidebar-open', open);
    byId('shade').hidden = !open;
  }

  async refresh(current = this.current) {
    this.current = current;
    this.found = await store.summaries();
    this.show();
  }

  show() {
    const wanted = byId('find-chat').value.trim().toLowerCase();
    const holds = (chat) => !wanted || chat.title.toLowerCase().includes(wanted) || chat.text.includes(wanted);
    const day = new Intl.DateTimeFormat(language, { month: 'short', day: 'numeric' });
    byId('chats').replaceChildren(...this.found.filter(holds).map((chat) => {
      const title = chat.title || t('untitled');
      return h('li', {}, h('button', { class: 'chat', 'aria-current': chat.id === this.current ? 'page' : null, title: day.format(chat.updated), on: { click: () => { this.slide(false); this.acts.open(chat.id); }, dblclick: () => this.rename(chat) } }, title),
        iconButton('edit', t('rename', { title }), () => this.rename(chat)),
        iconButton('trash', t('delete_chat', { title }), async () => {
          if (!window.confirm(t('delete_sure', { title }))) return;
          await store.remove(chat.id);
          this.acts.removed(chat.id);
        }));
    }));
  }

  async rename(chat) {
    const title = window.prompt(t('new_title'), chat.title);
    if (title === null) return;
    this.acts.renamed(chat.id, title.trim());
  }
}

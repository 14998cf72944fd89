// The words of the page: one table for each language, chosen by the browser's language or by the reader.

const chosen = localStorage.getItem('language');
export const language = chosen ?? ((navigator.languages ?? [navigator.language]).map((name) => name.slice(0, 2).toLowerCase()).find((name) => name === 'zh' || name === 'en') ?? 'en');
const table = (await (language === 'zh' ? import('./words_zh.js') : import('./words_en.js'))).default;

export function t(key, values = {}) {
  const text = table[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

export const number = (value, digits = 0) => new Intl.NumberFormat(language, { maximumFractionDigits: digits }).format(value);

export function translatePage() {
  document.documentElement.lang = language === 'zh' ? 'zh-CN' : 'en';
  for (const element of document.querySelectorAll('[data-t]')) element.textContent = t(element.dataset.t);
  for (const element of document.querySelectorAll('[data-t-label]')) {
    element.setAttribute('aria-label', t(element.dataset.tLabel));
    if (element.matches('button, select')) element.title = t(element.dataset.tLabel);
  }
  for (const element of document.querySelectorAll('[data-t-placeholder]')) element.placeholder = t(element.dataset.tPlaceholder);
}

export function otherLanguage() {
  localStorage.setItem('language', language === 'zh' ? 'en' : 'zh');
  location.reload();
}

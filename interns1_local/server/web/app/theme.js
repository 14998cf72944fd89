// Dark, light, or as the system has it.

const ORDER = ['auto', 'light', 'dark'];

export function showTheme() {
  const theme = localStorage.getItem('theme') ?? 'auto';
  document.documentElement.dataset.theme = theme;
  return theme;
}

export function nextTheme() {
  localStorage.setItem('theme', ORDER[(ORDER.indexOf(showTheme()) + 1) % ORDER.length]);
  return showTheme();
}

// The panel of parameters: sampling, thinking, system message, tools, schema.

import { byId, h, iconButton } from './dom.js';
import { t } from './language.js';
import { change, parsed, reset, settings } from './settings.js';
import { builtinNames } from './tools.js';

const PARAMETERS = [
  ['temperature', 0, 2, 0.05], ['top_p', 0, 1, 0.01], ['top_k', 0, 1000, 1], ['min_p', 0, 1, 0.01], ['repeat_penalty', 0, 2, 0.01],
  ['seed', 0, 2147483647, 1], ['num_predict', -1, 1000000, 1], ['num_ctx', 256, 1048576, 256], ['max_patches', 1, 100, 1], ['num_frames', 1, 256, 1],
];

export function openSettings(models) {
  const panel = byId('settings');
  panel.replaceChildren(
    h('div', { class: 'panel-head' }, h('h2', {}, t('settings')), iconButton('close', t('close'), () => closeSettings(true))),
    section(t('thinking_section'), budgetRow(models)), section(t('system_message'), area('system', 'system_message', t('system_hint'), 3)),
    section(t('parameters'), h('p', { class: 'hint' }, t('parameters_hint')), ...PARAMETERS.map(parameterRow), keepAliveRow()),
    section(t('tools'), h('p', { class: 'hint' }, t('tools_hint')), ...builtinNames.map(builtinRow), h('label', { for: 'set-tools' }, t('own_tools')), area('tools', 'own_tools', t('own_tools_hint'), 5, checkTools)),
    section(t('schema'), area('schema', 'schema', t('schema_hint'), 5, checkSchema)),
    h('button', { type: 'button', class: 'wide', on: { click: () => { reset(); openSettings(models); } } }, t('reset')));
  panel.hidden = false;
  byId('open-settings').setAttribute('aria-expanded', 'true');
}

export function closeSettings(focus) {
  byId('settings').hidden = true;
  byId('open-settings').setAttribute('aria-expanded', 'false');
  if (focus) byId('open-settings').focus();
}

const section = (title, ...content) => h('section', {}, h('h3', {}, title), ...content);
const label = (id, name, about) => h('label', { for: id }, h('code', {}, name), h('span', { class: 'about' }, t(about)));
const row = (name, about, input) => h('div', { class: 'row' }, label(input.id, name, about), input);

function parameterRow([name, min, max, step]) {
  const input = h('input', { type: 'number', id: `set-${name}`, min, max, step, value: settings.options[name] ?? '', placeholder: t('model_default'), on: { change: (event) => {
    const options = { ...settings.options };
    if (event.target.value === '' || !event.target.checkValidity()) delete options[name];
    else options[name] = Number(event.target.value);
    change({ options });
    event.target.reportValidity();
  } } });
  return row(name, `about_${name}`, input);
}

function budgetRow(models) {
  const input = h('input', { type: 'number', id: 'set-budget', min: 0, max: 1000000, step: 1, value: settings.budget, placeholder: t('no_limit'), disabled: !models.can('thinking'), on: { change: (event) => change({ budget: event.target.value }) } });
  return row('think_budget', 'about_budget', input);
}

function keepAliveRow() {
  const input = h('input', { type: 'text', id: 'set-keep-alive', value: settings.keep_alive, placeholder: '5m', pattern: '-?\\d+(ms|s|m|h)?', on: { change: (event) => { if (event.target.reportValidity()) change({ keep_alive: event.target.value }); } } });
  return row('keep_alive', 'about_keep_alive', input);
}

function builtinRow(name) {
  const box = h('input', { type: 'checkbox', id: `tool-${name}`, checked: settings.builtin.includes(name), on: { change: (event) => change({ builtin: [...settings.builtin.filter((other) => other !== name), ...(event.target.checked ? [name] : [])] }) } });
  return h('div', { class: 'check' }, box, label(box.id, name, `tool_${name}`));
}

// A problem is said beside the field, and what has one is not sent.
function area(name, title, hint, rows, check = () => '') {
  const problem = h('p', { class: 'error', id: `problem-${name}`, role: 'alert' });
  const field = h('textarea', { id: `set-${name}`, rows, value: settings[name], placeholder: hint, 'aria-label': t(title), 'aria-describedby': `problem-${name}`, spellcheck: name === 'system', on: { input: () => {
    const wrong = check(field.value);
    problem.textContent = wrong;
    field.setAttribute('aria-invalid', String(Boolean(wrong)));
    change({ [name]: wrong ? '' : field.value });
  } } });
  return h('div', {}, field, problem);
}

const checkJson = (fits, problem) => (text) => {
  const value = parsed(text);
  if (value instanceof Error) return t('json_problem', { problem: value.message });
  return value === undefined || fits(value) ? '' : t(problem);
};
const checkTools = checkJson((tools) => Array.isArray(tools) && tools.every((tool) => typeof tool?.function?.name === 'string'), 'tools_problem');
const checkSchema = checkJson((schema) => typeof schema === 'object' && schema !== null && !Array.isArray(schema), 'schema_problem');

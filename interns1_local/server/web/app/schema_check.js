// Checks a value against the common part of JSON Schema, and says which keywords it did not check.

const SILENT = new Set(['$schema', '$id', '$defs', 'definitions', 'title', 'description', 'default', 'examples', '$comment', 'readOnly', 'writeOnly', 'deprecated']);
const MAX_DEPTH = 200;

// {errors: [text], unchecked: [keyword]}; the value is valid as far as it was checked when there are no errors.
export function check(value, schema) {
  const state = { root: schema, errors: [], unchecked: new Set() };
  visit(value, schema, '$', state, 0);
  return { errors: state.errors, unchecked: [...state.unchecked] };
}

function visit(value, schema, path, state, depth) {
  if (depth > MAX_DEPTH) return void state.unchecked.add('$ref');
  if (schema === true) return;
  if (schema === false) return void state.errors.push(`${path}: nothing is allowed here`);
  if (typeof schema !== 'object' || schema === null || Array.isArray(schema)) return void state.unchecked.add('schema');
  for (const [keyword, rule] of Object.entries(schema)) {
    const test = Object.hasOwn(KEYWORDS, keyword) ? KEYWORDS[keyword] : null;
    if (test) {
      const problem = test(value, rule, { schema, path, state, depth: depth + 1 });
      if (problem) state.errors.push(`${path}: ${problem}`);
    } else if (!SILENT.has(keyword)) state.unchecked.add(keyword);
  }
}

const passes = (value, schema, { path, state, depth }) => {
  const inner = { root: state.root, errors: [], unchecked: state.unchecked };
  visit(value, schema, path, inner, depth);
  return inner.errors.length === 0;
};
const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);
const kind = (value) => (value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value);
const isType = (value, type) => (type === 'integer' ? Number.isInteger(value) : kind(value) === type);
const same = (one, other) => {
  if (kind(one) !== kind(other) || typeof one !== 'object' || one === null) return one === other;
  const keys = Object.keys(one);
  return keys.length === Object.keys(other).length && keys.every((key) => Object.hasOwn(other, key) && same(one[key], other[key]));
};
const forNumber = (test, text) => (value, rule) => typeof value === 'number' && !test(value, rule) && `${text} ${rule}`;
const forText = (test, text) => (value, rule) => typeof value === 'string' && !test([...value].length, rule) && `${text} ${rule}`;
const forArray = (test, text) => (value, rule) => Array.isArray(value) && !test(value.length, rule) && `${text} ${rule}`;

const KEYWORDS = {
  type: (value, rule) => ![].concat(rule).some((type) => isType(value, type)) && `must be of type ${[].concat(rule).join(' or ')}; it is ${kind(value)}`,
  enum: (value, rule) => !rule.some((one) => same(one, value)) && `must be one of ${JSON.stringify(rule)}`,
  const: (value, rule) => !same(value, rule) && `must be ${JSON.stringify(rule)}`,
  minimum: forNumber((value, rule) => value >= rule, 'must be at least'),
  maximum: forNumber((value, rule) => value <= rule, 'must be at most'),
  exclusiveMinimum: forNumber((value, rule) => value > rule, 'must be greater than'),
  exclusiveMaximum: forNumber((value, rule) => value < rule, 'must be less than'),
  multipleOf: forNumber((value, rule) => Math.abs(value / rule - Math.round(value / rule)) < 1e-9, 'must be a multiple of'),
  minLength: forText((length, rule) => length >= rule, 'characters: at least'),
  maxLength: forText((length, rule) => length <= rule, 'characters: at most'),
  pattern(value, rule, { state }) {
    try {
      return typeof value === 'string' && !new RegExp(rule, 'u').test(value) && `must match ${rule}`;
    } catch {
      return void state.unchecked.add('pattern');
    }
  },
  minItems: forArray((length, rule) => length >= rule, 'items: at least'),
  maxItems: forArray((length, rule) => length <= rule, 'items: at most'),
  uniqueItems: (value, rule) => rule && Array.isArray(value) && value.some((one, at) => value.slice(0, at).some((other) => same(one, other))) && 'items must differ',
  prefixItems(value, rule, { path, state, depth }) {
    if (Array.isArray(value)) rule.slice(0, value.length).forEach((part, at) => visit(value[at], part, `${path}[${at}]`, state, depth));
  },
  items(value, rule, { schema, path, state, depth }) {
    if (Array.isArray(value)) value.forEach((item, at) => at >= (schema.prefixItems?.length ?? 0) && visit(item, rule, `${path}[${at}]`, state, depth));
  },
  required: (value, rule) => isObject(value) && rule.filter((name) => !Object.hasOwn(value, name)).map((name) => `${name} is missing`).join(', '),
  properties(value, rule, { path, state, depth }) {
    if (isObject(value)) for (const [name, part] of Object.entries(rule)) if (Object.hasOwn(value, name)) visit(value[name], part, `${path}.${name}`, state, depth);
  },
  additionalProperties(value, rule, { schema, path, state, depth }) {
    if (!isObject(value)) return;
    if (schema.patternProperties) return void state.unchecked.add('additionalProperties');
    for (const name of Object.keys(value)) if (!Object.hasOwn(schema.properties ?? {}, name)) visit(value[name], rule, `${path}.${name}`, state, depth);
  },
  minProperties: (value, rule) => isObject(value) && Object.keys(value).length < rule && `must have at least ${rule} properties`,
  maxProperties: (value, rule) => isObject(value) && Object.keys(value).length > rule && `must have at most ${rule} properties`,
  allOf(value, rule, { path, state, depth }) { rule.forEach((part) => visit(value, part, path, state, depth)); },
  anyOf: (value, rule, context) => !rule.some((part) => passes(value, part, context)) && 'fits none of anyOf',
  oneOf: (value, rule, context) => rule.filter((part) => passes(value, part, context)).length !== 1 && 'must fit exactly one of oneOf',
  not: (value, rule, context) => passes(value, rule, context) && 'fits what it must not',
  $ref(value, rule, { path, state, depth }) {
    const target = rule === '#' ? state.root : rule.startsWith('#/') ? rule.slice(2).split('/').reduce((place, name) => place?.[name.replace(/~1/g, '/').replace(/~0/g, '~')], state.root) : undefined;
    if (target === undefined) state.unchecked.add('$ref');
    else visit(value, target, path, state, depth);
  },
};

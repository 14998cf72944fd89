// The tools that the page runs itself, in the browser or by our own server.

import { postJson } from './api.js';
import { calculate } from './calculator.js';

const property = (type, description) => ({ type, description });
const define = (name, description, properties) => ({ type: 'function', function: { name, description, parameters: { type: 'object', properties, required: Object.keys(properties) } } });

const BUILTIN = {
  calculate: {
    definition: define('calculate', 'Calculates an arithmetic expression exactly as written.', { expression: property('string', 'For example (3 + 4) * 2 ^ 5 / sqrt(2)') }),
    run: ({ expression }) => ({ result: calculate(String(expression)) }),
  },
  molecule_properties: {
    definition: define('molecule_properties', 'The formula, molecular weight and canonical SMILES of a molecule.', { smiles: property('string', 'The molecule in SMILES notation') }),
    run: async ({ smiles }) => {
      const { spans, hint } = await postJson('/api/molecules', { text: `<SMILES>${smiles}</SMILES>` });
      const found = spans[0] ?? {};
      return found.formula ? { formula: found.formula, weight: found.weight, canonical_smiles: found.canonical } : { error: hint ?? found.error ?? 'not a molecule' };
    },
  },
  current_time: {
    definition: define('current_time', 'The date and time on the user\'s machine.', {}),
    run: () => ({ time: new Date().toString() }),
  },
  get_weather: {
    definition: define('get_weather', 'Get the current weather in a city.', { city: property('string', 'The city') }),
    // For trying calls out: the weather is made up from the letters of the city.
    run: ({ city }) => ({ city, temperature: 5 + ([...String(city)].reduce((sum, letter) => sum + letter.codePointAt(0), 0) % 25), unit: 'celsius' }),
  },
};

export const builtinNames = Object.keys(BUILTIN);
export const builtinDefinitions = (names) => names.filter((name) => name in BUILTIN).map((name) => BUILTIN[name].definition);

export async function runBuiltin(call) {
  try {
    return JSON.stringify(await BUILTIN[call.name].run(call.arguments ?? {}));
  } catch (error) {
    return JSON.stringify({ error: error.message });
  }
}

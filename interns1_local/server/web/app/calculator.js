// Arithmetic by recursive descent: numbers, + - * / % ^, brackets, a few functions and constants. No eval.

const FUNCTIONS = { sqrt: Math.sqrt, exp: Math.exp, ln: Math.log, log: Math.log10, log10: Math.log10, log2: Math.log2, sin: Math.sin, cos: Math.cos, tan: Math.tan, abs: Math.abs, round: Math.round, floor: Math.floor, ceil: Math.ceil };
const CONSTANTS = { pi: Math.PI, e: Math.E };
const MAX_LENGTH = 1000;

export function calculate(expression) {
  const words = expression.replace(/×/g, '*').replace(/÷/g, '/').replace(/−/g, '-').replace(/\*\*/g, '^').match(/\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+|[A-Za-z]+\d*|[-+*/%^()]|\S/g) ?? [];
  if (expression.length > MAX_LENGTH) throw new Error(`the expression is longer than ${MAX_LENGTH} characters`);
  let at = 0;
  const take = (word) => words[at] === word && (at += 1) > 0;

  function sum() {
    let value = product();
    for (;;) {
      if (take('+')) value += product();
      else if (take('-')) value -= product();
      else return value;
    }
  }

  function product() {
    let value = signed();
    for (;;) {
      if (take('*')) value *= signed();
      else if (take('/')) value /= signed();
      else if (take('%')) value %= signed();
      else return value;
    }
  }

  function signed() {
    if (take('-')) return -signed();
    if (take('+')) return signed();
    const base = single();
    return take('^') ? base ** signed() : base;
  }

  function single() {
    const word = words[at];
    at += 1;
    if (word === '(') {
      const value = sum();
      if (!take(')')) throw new Error('a bracket is not closed');
      return value;
    }
    if (/^[\d.]/.test(word ?? '')) return Number(word);
    const name = (word ?? '').toLowerCase();
    if (Object.hasOwn(CONSTANTS, name)) return CONSTANTS[name];
    if (Object.hasOwn(FUNCTIONS, name) && words[at] === '(') return FUNCTIONS[name](single());
    throw new Error(word === undefined ? 'the expression ends too early' : `cannot calculate with ${word}`);
  }

  const value = sum();
  if (at < words.length) throw new Error(`cannot calculate with ${words[at]}`);
  return value;
}

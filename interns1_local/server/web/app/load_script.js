// Loads a library that is a plain script of ours. The policy lets only these addresses become scripts.

const OWN = new Set(['/web/vendor/purify.min.js', '/web/vendor/temml.min.js']);
const policy = window.trustedTypes?.createPolicy('own-scripts', {
  createScriptURL(address) {
    if (!OWN.has(address)) throw new TypeError(`not a script of this page: ${address}`);
    return address;
  },
});
const loading = new Map();

export function loadScript(address) {
  if (!loading.has(address)) {
    loading.set(address, new Promise((resolve, reject) => {
      const script = document.createElement('script');
      script.src = policy ? policy.createScriptURL(address) : address;
      script.onload = resolve;
      script.onerror = () => { loading.delete(address); reject(new Error(`could not load ${address}`)); };
      document.head.append(script);
    }));
  }
  return loading.get(address);
}

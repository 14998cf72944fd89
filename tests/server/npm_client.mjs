// Every method of the `ollama` package, against the server whose address is given. Prints one JSON object.
import { readFileSync } from 'node:fs'
import { Ollama } from 'ollama'

const [url, registry] = process.argv.slice(2)
const client = new Ollama({ host: url })
const messages = [{ role: 'user', content: 'Hi' }]
const result = {}

result.chat = (await client.chat({ model: 'tiny', messages })).message
let text = ''
let last
for await (const part of await client.chat({ model: 'tiny', messages, stream: true, think: false })) {
  text += part.message.content
  last = part
}
result.stream = { text, done: last.done, reason: last.done_reason }
result.generate = (await client.generate({ model: 'plain', prompt: 'Hi' })).response
result.list = (await client.list()).models.map((model) => model.name).sort()
result.show = (await client.show({ model: 'tiny' })).details.format
result.ps = (await client.ps()).models.length
result.version = (await client.version()).version
result.copy = (await client.copy({ source: 'tiny', destination: 'other' })).status
result.create = (await client.create({ model: 'kind', from: 'tiny', system: 'Be kind.' })).status
const steps = []
for await (const step of await client.create({ model: 'kind2', from: 'tiny', stream: true })) steps.push(step.status)
result.createStream = steps.at(-1)
await client.copy({ source: 'tiny', destination: `${registry.slice('http://'.length)}/lab/tiny` })
result.push = (await client.push({ model: `${registry}/lab/tiny`, insecure: true })).status
result.pull = (await client.pull({ model: `${registry}/lab/tiny`, insecure: true })).status
result.delete = (await client.delete({ model: 'other' })).status
try {
  await client.chat({ model: 'nope', messages })
} catch (error) {
  result.error = error.message
}
const hanging = await client.chat({ model: 'tiny', messages: [{ role: 'user', content: 'hang' }], stream: true })
setTimeout(() => client.abort(), 300)
try {
  for await (const _ of hanging) result.hung = true
} catch (error) {
  result.abort = error.name
}
console.log(JSON.stringify(result))

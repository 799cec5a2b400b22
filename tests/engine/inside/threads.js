// Node's ways to do several things at once; fails loudly.
const assert = require('node:assert');
const http = require('node:http');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const zlib = require('node:zlib');
const { execFileSync, fork, spawn } = require('node:child_process');
const { Worker, isMainThread, parentPort, workerData } = require('node:worker_threads');

if (!isMainThread) {
  parentPort.postMessage(workerData * 2);
} else if (process.argv[2] === 'forked') {
  process.on('message', (text) => process.send(text.toUpperCase(), () => process.disconnect()));
} else {
  main().then(() => console.log('fine'), (error) => { console.error(error); process.exit(1); });
}

async function main() {
  const doubled = await Promise.all([1, 2, 3, 4].map((n) => new Promise((resolve, reject) => {
    new Worker(__filename, { workerData: n }).on('message', resolve).on('error', reject);
  })));
  assert.deepStrictEqual(doubled, [2, 4, 6, 8]);

  const server = http.createServer((request, response) => response.end('hello'));
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const answer = await new Promise((resolve, reject) => {
    http.get({ port: server.address().port, host: '127.0.0.1' }, (response) => {
      let text = '';
      response.on('data', (chunk) => { text += chunk; }).on('end', () => resolve(text));
    }).on('error', reject);
  });
  assert.strictEqual(answer, 'hello');
  server.close();

  assert.strictEqual(execFileSync('sh', ['-c', 'echo out'], { encoding: 'utf8' }), 'out\n');
  const child = spawn('cat');
  child.stdin.end('through a pipe');
  let piped = '';
  for await (const chunk of child.stdout) piped += chunk;
  assert.strictEqual(piped, 'through a pipe');
  const other = fork(__filename, ['forked']);
  assert.strictEqual(await new Promise((resolve) => { other.on('message', resolve); other.send('abc'); }), 'ABC');

  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'x-'));
  const seen = new Promise((resolve) => { fs.watch(folder, (event, name) => resolve(name)); });
  fs.writeFileSync(path.join(folder, 'new'), zlib.gzipSync('x'.repeat(1e5)));
  assert.strictEqual(await seen, 'new');
  fs.cpSync(folder, folder + '.copy', { recursive: true });
  assert.ok(os.networkInterfaces().lo, 'the loopback interface is listed');
  assert.strictEqual(new Function('return 6 * 7')(), 42);
  setImmediate(() => process.exit(0));
}

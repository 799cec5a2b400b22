// Asks for one page of the host that it is let out to, then for what it is not let out to, and tells what came of each.
// Usage: agent.js HOST. Ends with 1 when the host could not be reached, or anything else could.
const http = require("http");
const https = require("https");
const net = require("net");
const tls = require("tls");

const host = process.argv[2];
const gateway = new URL(process.env.HTTPS_PROXY);

// A tunnel through the gateway. A Node from 22.21 on does this by itself; like this it works with every one.
const tunnel = (target) =>
  new Promise((resolve, reject) => {
    http
      .request({ host: gateway.hostname, port: gateway.port, method: "CONNECT", path: target, timeout: 10000 })
      .on("connect", (answer, socket) =>
        answer.statusCode === 200 ? resolve(socket) : reject(new Error(`${answer.statusCode} ${answer.statusMessage}`)),
      )
      .on("error", reject)
      .end();
  });

const page = async (name) => {
  const socket = await tunnel(`${name}:443`);
  const createConnection = () => tls.connect({ socket, servername: name });
  return new Promise((resolve, reject) => {
    https
      .get({ host: name, path: "/", headers: { Host: name }, createConnection }, (answer) => resolve(answer.resume().statusCode))
      .on("error", reject);
  });
};

const straight = (address) =>
  new Promise((resolve, reject) => {
    net.connect({ host: address, port: 443, timeout: 5000 }).on("connect", resolve).on("error", reject);
  });

const attempts = [
  [`${host}:443`, () => page(host)],
  [`${host}:22`, () => tunnel(`${host}:22`)],
  ["paste.example.net:443", () => page("paste.example.net")],
  ["169.254.169.254:80", () => tunnel("169.254.169.254:80")],
  ["192.0.2.1:443, past the gateway", () => straight("192.0.2.1")], // an address kept for documentation: nobody's
];

(async () => {
  const reached = [];
  for (const [target, attempt] of attempts) {
    try {
      const status = await attempt();
      reached.push(target);
      console.log(`${target}: ${typeof status === "number" ? `answered ${status}` : "reached"}`);
    } catch (error) {
      console.log(`${target}: ${error.code || error.message}`);
    }
  }
  process.exit(reached.length === 1 && reached[0] === attempts[0][0] ? 0 : 1);
})();

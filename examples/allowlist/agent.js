// Asks for one page of the host that it is let out to, then for what it is not let out to, and tells what came of each.
// Usage: agent.js HOST. Ends with 1 when the host could not be reached, or anything else could.
const https = require("https");
const net = require("net");

const host = process.argv[2];

const page = (name) =>
  new Promise((resolve, reject) => {
    https.get(`https://${name}/`, (answer) => resolve(answer.resume().statusCode)).on("error", reject);
  });

const connection = (host, port) =>
  new Promise((resolve, reject) => {
    const socket = net.connect({ host, port, timeout: 5000 });
    socket.on("connect", () => resolve(socket.destroy())).on("error", reject);
    socket.on("timeout", () => reject(socket.destroy() && new Error("no answer")));
  });

const attempts = [
  [`${host}:443`, () => page(host)],
  [`${host}:22`, () => connection(host, 22)],
  ["paste.example.net:443", () => page("paste.example.net")],
  ["169.254.169.254:80", () => connection("169.254.169.254", 80)],
  ["192.0.2.1:443", () => connection("192.0.2.1", 443)], // an address kept for documentation: nobody's
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

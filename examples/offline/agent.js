// Counts the words of the notes, and tries to send the count out: offline, it cannot.
// Usage: agent.js DIRECTORY. Ends with 1 when anything could be sent.
const fs = require("fs");
const net = require("net");
const path = require("path");

const directory = process.argv[2];
const notes = fs.readdirSync(directory).filter((name) => name.endsWith(".md")).sort();
const words = {};
for (const name of notes) {
  words[name] = fs.readFileSync(path.join(directory, name), "utf8").split(/\s+/).filter(Boolean).length;
  console.log(`${name}: ${words[name]} words`);
}
fs.writeFileSync(path.join(directory, "summary.json"), JSON.stringify(words, null, 2) + "\n");

const end = (text, code) => {
  console.log(text);
  process.exit(code);
};
const socket = net.connect({ host: "192.0.2.1", port: 443 }); // an address kept for documentation: nobody's
socket.setTimeout(5000, () => end("no answer, but there is a way out", 1));
socket.on("connect", () => end("the summary could be sent out", 1));
socket.on("error", (error) => end(`nothing can be sent: ${error.code}`, error.code === "ENETUNREACH" ? 0 : 1));

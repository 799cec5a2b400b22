// One task on the project in the working directory. Usage: task.js TASK PROJECT. Ends with 1 when it finds a fault.
const fs = require("fs");

const [task, project] = process.argv.slice(2);
const pages = fs.readdirSync(".").filter((name) => name.endsWith(".md")).sort();
const faults = [];
const each = (look) => pages.forEach((name) => look(name, fs.readFileSync(name, "utf8")));

const tasks = {
  prepare: () => pages.length || faults.push("no pages"),
  names: () => each((name) => /^[a-z-]+\.md$/.test(name) || faults.push(`${name}: only small letters, please`)),
  links: () =>
    each((name, text) => {
      for (const [, target] of text.matchAll(/\]\(([^)]+)\)/g)) {
        if (!fs.existsSync(target)) faults.push(`${name}: no page ${target}`);
      }
    }),
  lengths: () =>
    each((name, text) => text.split("\n").some((line) => line.length > 80) && faults.push(`${name}: a line too long`)),
  notify: () => {},
};

tasks[task]();
faults.forEach((fault) => console.log(fault));
console.log(`${project}: ${task}: ${pages.length} pages, ${faults.length} faults`);
process.exit(faults.length ? 1 : 0);

// Shows what this agent is and what it may use, as it is seen from inside.
const fs = require("fs");

const limits = fs.readFileSync("/proc/self/limits", "utf8");
const limit = (name) => limits.match(new RegExp(`^${name}\\s+(\\S+)`, "m"))[1];
console.log(`team ${process.env.TEAM}, task ${process.env.TASK}, user ${process.getuid()}`);
console.log(`open files ${limit("Max open files")}, core ${limit("Max core file size")}, file size ${limit("Max file size")}`);
console.log(`networks ${Object.keys(require("os").networkInterfaces()).join(" ")}`);

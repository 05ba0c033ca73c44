// Is asyncapi.json an AsyncAPI document without a fault? Prints every finding; ends with 1 for an error or a warning. That a
// later version of AsyncAPI exists is information: we write 3.0, which the tools of our readers know.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

// Modules are where `run` installed them, not beside this file.
const require = createRequire(`${process.env.MODULES}/`);
const { Parser } = require("@asyncapi/parser");

const text = await readFile(process.argv[2], "utf8");
const { document, diagnostics } = await new Parser().parse(text);
for (const { severity, message, path } of diagnostics) {
  console.log(`${["error", "warning", "information", "hint"][severity]} ${path.join("/")}: ${message}`);
}
const WARNING = 1;
if (!document || diagnostics.some(({ severity }) => severity <= WARNING)) process.exit(1);
console.log(`asyncapi.json: ${document.channels().all().length} channels, ${document.operations().all().length} operations`);

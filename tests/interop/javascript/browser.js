// Opens the page in headless Chromium: `browser.js ORIGIN OTHER_ORIGIN URL PREFIX PLAN [--faulty RELAY]` prints lines of JSON.
// First a page of the other origin, which the engine must refuse.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const [origin, otherOrigin, url, prefix, , , relay] = process.argv.slice(2);
const say = (line) => console.log(JSON.stringify(line));
const profile = mkdtempSync(join(tmpdir(), "tidegate-chromium-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  headless: true,
  args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

const other = await context.newPage();
await other.goto(`${otherOrigin}/empty.html`);
const refused = await other.evaluate(
  (url) =>
    new Promise((resolve) => {
      const socket = new WebSocket(`${url}/v1/ws`, "tidegate.v1");
      socket.onopen = () => resolve("connected");
      socket.onclose = ({ code }) => resolve(code);
    }),
  url,
);
say({ refused });

const page = await context.newPage();
let end;
const ended = new Promise((resolve, reject) => {
  end = { resolve, reject };
});
page.on("pageerror", (error) => end.reject(error));
page.on("crash", () => end.reject(new Error("the page crashed")));
await page.exposeFunction("report", (line) => {
  const { result, failed } = JSON.parse(line);
  if (failed) end.reject(new Error(failed));
  else console.log(line);
  if (result) end.resolve();
});
await page.goto(`${origin}/page.html?${new URLSearchParams({ url, prefix, ...(relay && { relay }) })}`);
try {
  await ended;
} finally {
  await context.close();
  rmSync(profile, { recursive: true, force: true });
}

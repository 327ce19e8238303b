// Runs every check on a page of its own, and prints a line for each.

import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { checks } from "./checks.mjs";

const { PAGE_CHECK_BROWSER, PAGE_CHECK_PACKAGES, PAGE_CHECK_SCREENSHOTS } = process.env;
const packages = createRequire(join(PAGE_CHECK_PACKAGES, "packages.cjs"));
const { chromium } = packages("playwright-core");
const axe = packages.resolve("axe-core/axe.min.js");
const url = process.argv[2];
// What a wait for the page or the model may take.
const LIMIT_MS = 30_000;

if (PAGE_CHECK_SCREENSHOTS) mkdirSync(PAGE_CHECK_SCREENSHOTS, { recursive: true });
// Chromium cannot make its sandbox as root.
const browser = await chromium.launch({ executablePath: PAGE_CHECK_BROWSER, args: process.getuid() === 0 ? ["--no-sandbox"] : [] });
let failed = 0;
for (const { name, options = {}, expects = [], run } of checks) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  context.setDefaultTimeout(LIMIT_MS);
  const page = await context.newPage();
  // What the browser complains of: errors of the script, and what the policy stopped.
  const complaints = [];
  page.on("pageerror", error => complaints.push(error.message));
  page.on("console", message => message.type() === "error" && complaints.push(message.text()));
  page.on("request", request => new URL(request.url()).host !== new URL(url).host && !request.url().startsWith("data:")
    && complaints.push(`asks ${request.url()}`));
  const screenshot = async file => PAGE_CHECK_SCREENSHOTS && page.screenshot({ path: join(PAGE_CHECK_SCREENSHOTS, `${file}.png`) });
  const begin = Date.now();
  try {
    await run({ page, url, axe, screenshot, open: () => page.goto(url) });
    const unexpected = complaints.filter(text => !expects.some(expected => text.includes(expected)));
    if (unexpected.length) throw new Error(`the browser says: ${unexpected.join("; ")}`);
    console.log(`passed  ${name}, ${((Date.now() - begin) / 1000).toFixed(1)} s`);
  } catch (error) {
    failed += 1;
    console.log(`failed  ${name}: ${error.stack}`);
    await screenshot("failed").catch(() => {});
  }
  await context.close();
}
await browser.close();
console.log(`page: ${checks.length - failed} passed, ${failed} failed`);
process.exit(failed || !checks.length ? 1 : 0);

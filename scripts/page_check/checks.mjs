// What people do on the page, and what must come of it.

import assert from "node:assert/strict";

const DONE = "[role='tabpanel']:not([hidden]) .reply:last-of-type .again:not([hidden])";
const ENDLESS = { max_new_tokens: "1500", ignore_eos: true };

const text = (page, selector) => page.locator(selector).last().innerText();
const tokens = page => page.locator(".token").evaluateAll(all => all.map(one => one.token.id));

// Sets parameters in their fields, whose parts may be closed.
async function set(page, values) {
  await page.evaluate(() => document.querySelectorAll("#parameters details").forEach(part => { part.open = true; }));
  for (const [name, value] of Object.entries(values)) {
    const field = page.locator(`#p-${name}`);
    await (value === true ? field.check() : field.fill(value));
  }
}

async function complete(page, prompt, values = {}) {
  await set(page, values);
  await page.fill("#prompt", prompt);
  await page.click("#generate");
  await page.waitForSelector(DONE);
}

async function send(page, message) {
  await page.fill("#message", message);
  await page.press("#message", "Enter");
  await page.waitForSelector(DONE);
}

// The body of the next request to a path.
const nextBody = (page, path) => page.waitForRequest(request => new URL(request.url()).pathname === path)
  .then(request => JSON.parse(request.postData()));

// The numbers that a gauge has plotted.
const plotted = (page, title) => page.evaluate(title => {
  const gauge = [...document.querySelectorAll(".gauge")].find(one => one.querySelector("span").textContent === title);
  const points = [...gauge.querySelectorAll("path")].flatMap(path => (path.getAttribute("d") ?? "").split(/[ML]/).filter(Boolean));
  return points.map(point => 100 - Number(point.split(" ")[1]));
}, title);

const waitForPeak = (page, title) => page.waitForFunction(title => {
  const gauge = [...document.querySelectorAll(".gauge")].find(one => one.querySelector("span").textContent === title);
  return [...gauge?.querySelectorAll("path") ?? []].some(path =>
    (path.getAttribute("d") ?? "").split(/[ML]/).some(point => Number(point.split(" ")[1]) < 99));
}, title);

// What axe-core finds, in the state that the page is in.
async function violations(page, axe) {
  await page.addScriptTag({ path: axe });
  const { passed, found } = await page.evaluate(() => axe.run(document).then(({ passes, violations }) => ({
    passed: passes.length,
    found: violations.map(({ id, nodes }) => `${id}: ${nodes.map(node => node.html.slice(0, 120)).join(" | ")}`),
  })));
  assert.ok(passed > 20, `only ${passed} rules had something to look at`);
  return found;
}

// Moves by Tab until an element that matches has the focus.
async function tabTo(page, selector) {
  for (let count = 0; count < 120; count += 1) {
    if (await page.evaluate(selector => document.activeElement.matches(selector), selector)) return;
    await page.keyboard.press("Tab");
  }
  throw new Error(`Tab does not reach ${selector}`);
}

const PHONE = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2 };

async function streams({ page, open }) {
  await open();
  await set(page, ENDLESS);
  await page.fill("#prompt", "Once upon a time");
  await page.click("#generate");
  // Tokens come one by one, while the answer is made.
  await page.waitForFunction(() => document.querySelectorAll(".token").length > 5);
  assert.equal(await page.locator(".reply.runs").count(), 1, "it is still running");
  assert.match(await text(page, ".speed"), /^\d+ tokens, [\d.]+ tokens\/s, the first after \d+ ms/);
  // Without the waits of a click: on a fast machine the answer is made in a second.
  await page.evaluate(() => document.querySelector("#completion .stop").click());
  await page.waitForSelector(DONE);
  const count = (await tokens(page)).length;
  assert.ok(count > 5 && count < 1500, `${count} tokens`);
  assert.match(await text(page, ".speed"), / · stopped/);
  // The server has ended it, too.
  await page.waitForFunction(async () => /tgi_batch_current_size 0/.test(await (await fetch("/metrics")).text()));
  await set(page, { max_new_tokens: "5" });
  await page.click(".more");
  await page.waitForFunction(count => document.querySelectorAll(".token").length === count + 5, count);
}

async function showsProbabilities({ page, open, screenshot }) {
  await open();
  await complete(page, "Once upon a time", { temperature: "1.2", seed: "18446744073709551615", max_new_tokens: "60" });
  assert.match(await text(page, ".speed"), /seed 18446744073709551615/, "all digits of a seed are kept");
  const coloured = page.locator(".token:is(.p1, .p2, .p3, .p4, .p5)");
  const background = () => coloured.first().evaluate(one => getComputedStyle(one).backgroundColor);
  assert.notEqual(await background(), "rgba(0, 0, 0, 0)");
  await coloured.first().hover();
  assert.match(await text(page, "#hover"), /· [\d.]+ % .*· id \d+/);
  await screenshot("desktop");
  await page.uncheck("#colours");
  assert.equal(await background(), "rgba(0, 0, 0, 0)");
}

async function branches({ page, open, screenshot }) {
  await open();
  await complete(page, "Once upon a time", { max_new_tokens: "30" });
  const first = await tokens(page);
  await page.locator(".token").nth(3).click();
  const items = page.locator("[role='menuitem']");
  assert.equal(await items.count(), 5);
  const shares = await items.locator("span").allInnerTexts();
  assert.ok(shares.every(share => /%$/.test(share)), shares.join());
  await screenshot("alternatives");
  const asked = nextBody(page, "/generate_stream");
  await items.nth(1).click();
  await page.waitForSelector(DONE);
  const second = await tokens(page);
  assert.deepEqual(second.slice(0, 3), first.slice(0, 3));
  assert.notEqual(second[3], first[3]);
  assert.ok(second.length > 4, "generation goes on");
  // From the ids of the prompt, of what was kept, and of what was chosen.
  const { inputs } = await asked;
  assert.deepEqual(inputs.slice(-4), second.slice(0, 4));
  const prompt = await page.evaluate(async () => (await fetch("/tokenize", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ inputs: "Once upon a time" }),
  })).json());
  assert.deepEqual(inputs.slice(0, -4), prompt.map(token => token.id));
  // Taking the first token back at the same place gives the first version again.
  await page.locator(".token").nth(3).click();
  await items.filter({ hasText: await page.evaluate(id => [...document.querySelectorAll(".token")][3].token.top
    .find(other => other.id === id).text.trim(), first[3]) }).first().click();
  await page.waitForSelector(DONE);
  assert.deepEqual((await tokens(page)).slice(0, 30), first);
  assert.equal(await text(page, ".which"), "3 of 3");
  await page.click("[data-step='-1']");
  assert.deepEqual(await tokens(page), second);
}

async function chats({ page, open }) {
  await open();
  await page.click("#tab-chat");
  await set(page, { max_new_tokens: "20" });
  await send(page, "What is the capital of Italy?");
  const answer = await text(page, ".tokens");
  assert.match(answer, /Rome/);
  const asked = nextBody(page, "/chat_tokenize");
  await send(page, "What is the capital of France?");
  const { messages } = await asked;
  assert.deepEqual(messages.map(message => message.role), ["user", "assistant", "user"]);
  assert.match(messages[1].content, /Rome/);
  assert.doesNotMatch(messages[1].content, /User:/, "the stop string is no part of an answer");
  assert.match(await text(page, ".tokens"), /Paris/);
  // A branch of the first answer leaves out what followed it.
  await page.locator(".token").first().click();
  await page.locator("[role='menuitem']").nth(1).click();
  await page.waitForFunction(() => document.querySelectorAll(".reply").length === 1);
  await page.waitForSelector(DONE);
  await page.click("#undo");
  assert.equal(await page.inputValue("#message"), "What is the capital of Italy?");
  assert.equal(await page.locator(".reply").count(), 0);
}

async function parameters({ page, open }) {
  await open();
  const values = {
    max_new_tokens: "9", min_tokens: "2", stop: "zzz\\n\nqq", stop_token_ids: "3, 4", ignore_eos: true, truncate: "3",
    temperature: "0.9", top_p: "0.95", top_k: "50", min_p: "0.01", typical_p: "0.99", seed: "7", do_sample: true,
    repetition_penalty: "1.1", presence_penalty: "0.1", count_frequency_penalty: "0.2", frequency_penalty: "0.3",
    logit_bias: "5=-1.5, 6=2", watermark: true, top_n_tokens: "2", return_full_text: true,
  };
  const asked = nextBody(page, "/generate_stream");
  await complete(page, "Once upon a time", values);
  const { inputs, stream, parameters } = await asked;
  assert.deepEqual({ inputs, stream }, { inputs: "Once upon a time", stream: true });
  assert.deepEqual(parameters, {
    max_new_tokens: 9, min_tokens: 2, stop: ["zzz\n", "qq"], stop_token_ids: [3, 4], ignore_eos: true, truncate: 3,
    temperature: 0.9, top_p: 0.95, top_k: 50, min_p: 0.01, typical_p: 0.99, seed: 7, do_sample: true,
    repetition_penalty: 1.1, presence_penalty: 0.1, count_frequency_penalty: 0.2, frequency_penalty: 0.3,
    logit_bias: { 5: -1.5, 6: 2 }, watermark: true, top_n_tokens: 2, return_full_text: true, details: true,
  });
  assert.match(await text(page, ".tokens"), /^Once upon a time/);
  // They stay when the page is loaded again, and go on request.
  await page.reload();
  assert.equal(await page.inputValue("#p-top_k"), "50");
  await page.click("#reset");
  assert.equal(await page.inputValue("#p-top_k"), "");
  // Whole answers: the likeliest of two, with the probabilities of the prompt.
  await complete(page, "Once upon a time", { best_of: "2", temperature: "1.3", decoder_input_details: true, max_new_tokens: "4" });
  assert.equal(await page.locator(".token.given").count(), 4);
  assert.equal(await page.locator(".token:not(.given)").count(), 4);
}

async function errors({ page, open }) {
  await open();
  await complete(page, "Once", { temperature: "-1" });
  assert.match(await text(page, ".error"), /`temperature` must be strictly positive\s+Field: temperature · HTTP 422/);
  assert.equal(await page.getAttribute("#p-temperature", "aria-invalid"), "true");
  assert.match(await text(page, "#wrong-temperature"), /strictly positive/);
  await complete(page, "Once", { temperature: "", logit_bias: "nonsense" });
  assert.match(await text(page, ".error"), /expected ID=NUMBER/);
  await complete(page, "Once", { logit_bias: "", parameters: '{"stop": null}' });
  assert.match(await text(page, ".error"), /parameters\.stop: invalid type/);
  await set(page, { parameters: "" });
  // An error within a stream.
  const event = 'event: error\ndata: {"error": "the device is on fire", "error_type": "generation"}\n\n';
  await page.route("**/generate_stream", route => route.fulfill({ contentType: "text/event-stream", body: event }));
  await complete(page, "Once");
  assert.match(await text(page, ".error"), /the device is on fire/);
  await page.route("**/generate_stream", route => route.abort());
  await complete(page, "Once");
  assert.match(await text(page, ".error"), /cannot be reached/);
}

async function asksForAKey({ page, open }) {
  const guard = async route => {
    if (route.request().headers().authorization === "Bearer open sesame") return route.fallback();
    const body = JSON.stringify({ error: { message: "a key is needed", type: "invalid_request_error" } });
    return route.fulfill({ status: 401, contentType: "application/json", body });
  };
  for (const path of ["info", "metrics", "generate_stream"]) await page.route(`**/${path}`, guard);
  await open();
  await page.waitForSelector("#ask-key[open]");
  assert.match(await text(page, "#ask-key-why"), /a key is needed/);
  assert.match(await text(page, "#no-gauges"), /a key is needed/);
  await page.keyboard.press("Escape");
  await page.click("#generate");
  await page.waitForSelector("#ask-key[open]");
  await page.keyboard.type("wrong");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#ask-key[open]");
  await page.fill("#key-value", "open sesame");
  await page.keyboard.press("Enter");
  await page.waitForSelector(DONE);
  assert.equal(await page.locator(".error:not([hidden])").count(), 0);
  await page.waitForSelector(".gauge");
  await page.waitForFunction(() => document.getElementById("model").textContent !== "");
  assert.equal(await page.evaluate(() => sessionStorage["peregrine-key"]), "open sesame");
  assert.equal(await page.evaluate(() => JSON.stringify(localStorage).includes("sesame")), false);
}

async function gauges({ page, open }) {
  await open();
  await page.waitForSelector(".gauge");
  await set(page, ENDLESS);
  // Of several blocks of the KV cache, which the second answer finds there.
  await page.fill("#prompt", "Once upon a time there was a fox. ".repeat(8));
  // Beside others, so that it takes longer than the gauges' second on a fast machine, too.
  await page.evaluate(() => {
    const body = JSON.stringify({ inputs: "Once", parameters: { max_new_tokens: 1500, ignore_eos: true } });
    const headers = { "content-type": "application/json" };
    for (let count = 0; count < 6; count += 1) fetch("/generate", { method: "POST", headers, body });
  });
  await page.click("#generate");
  for (const title of ["Batch", "KV cache", "Tokens/s", "Steps/s"]) await waitForPeak(page, title);
  await page.waitForSelector(DONE);
  assert.ok((await plotted(page, "KV cache")).every(percent => percent >= 0 && percent <= 100));
  await page.click(".again");
  await waitForPeak(page, "Prefix hits");
}

async function gaugesOfRanksAndNone({ page, open }) {
  let steps = 0;
  const ranks = () => [0, 1].map(rank => `peregrine_rank_step_time_seconds_sum{rank="${rank}"} ${steps * 0.002 * (rank + 1)}\n`
    + `peregrine_rank_step_time_seconds_count{rank="${rank}"} ${steps}\n`).join("");
  await page.route("**/metrics", route => {
    steps += 10;
    return route.fulfill({ contentType: "text/plain", body: `tgi_queue_size 3\n${ranks()}` });
  });
  await open();
  const shown = title => page.locator(".gauge", { hasText: title }).locator("b").innerText();
  await page.waitForFunction(() => /ms$/.test([...document.querySelectorAll(".gauge b")].at(-1)?.textContent ?? ""));
  assert.equal(await shown("Step time of each rank"), "2.00 · 4.00 ms");
  assert.equal(await shown("Queue"), "3");
  assert.deepEqual(await page.locator(".gauge:visible span").allInnerTexts(), ["Queue", "Step time of each rank"]);
  await page.route("**/metrics", route => route.fulfill({ status: 404, body: "" }));
  await page.waitForFunction(() => /not on this port/.test(document.getElementById("no-gauges").textContent));
  assert.equal(await page.locator("#gauges").isVisible(), false);
}

async function keyboardAlone({ page, open, screenshot }) {
  await open();
  await tabTo(page, "#prompt");
  await page.keyboard.press("ControlOrMeta+A");
  await page.keyboard.type("The fox said");
  await page.keyboard.press("Control+Enter");
  await page.waitForSelector(DONE);
  await tabTo(page, ".token");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowRight");
  assert.ok(await page.locator("#hover").isVisible(), "the probability is shown where the focus is");
  await page.keyboard.press("Enter");
  await page.keyboard.press("Escape");
  assert.ok(await page.evaluate(() => document.activeElement.matches(".token:nth-child(3)")), "Escape leads back");
  const before = await tokens(page);
  await page.keyboard.press("Enter");
  await page.keyboard.press("ArrowDown");
  await screenshot("keyboard");
  await page.keyboard.press("Enter");
  await page.waitForSelector(DONE);
  assert.notEqual((await tokens(page))[2], before[2]);
  await tabTo(page, "#p-max_new_tokens");
  await page.keyboard.press("ControlOrMeta+A");
  await page.keyboard.type("2000");
  await page.evaluate(() => document.getElementById("prompt").focus());
  await page.keyboard.press("Control+Enter");
  await page.waitForFunction(() => document.querySelectorAll(".token").length > 3);
  await page.keyboard.press("Escape");
  await page.waitForSelector(DONE);
  await page.evaluate(() => document.getElementById("theme").focus());
  await tabTo(page, "#tab-completion");
  await page.keyboard.press("ArrowRight");
  await tabTo(page, "#message");
  await page.keyboard.type("What is the capital of Spain?");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#chat .again:not([hidden])");
  assert.match(await text(page, "#chat .tokens"), /Madrid/);
}

const looks = [
  { name: "light", options: { colorScheme: "light" } },
  { name: "dark", options: { colorScheme: "dark" } },
  { name: "phone", options: PHONE },
  { name: "phone-dark", options: { ...PHONE, colorScheme: "dark" } },
];

// Every element, in all states that differ.
const accessible = ({ name, options }) => ({
  name: `axe-core finds nothing: ${name}`,
  options: { ...options, bypassCSP: true },
  async run({ page, open, axe, screenshot }) {
    await open();
    await page.waitForSelector(".gauge");
    const dark = await page.evaluate(() => matchMedia("(prefers-color-scheme: dark)").matches);
    const back = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    assert.equal(back, dark ? "rgb(20, 23, 27)" : "rgb(247, 246, 243)");
    await complete(page, "Once upon a time", { temperature: "1.4", seed: "3", max_new_tokens: "80" });
    await screenshot(`${name}-completion`);
    const found = await violations(page, axe);
    await page.locator(".token").nth(5).click();
    found.push(...await violations(page, axe));
    await page.keyboard.press("Escape");
    await complete(page, "Once", { top_p: "7" });
    found.push(...await violations(page, axe));
    await set(page, { top_p: "" });
    await page.click("#tab-chat");
    await send(page, "What is the capital of Italy?");
    await screenshot(`${name}-chat`);
    found.push(...await violations(page, axe));
    assert.deepEqual(found, []);
    const wider = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.equal(wider, 0, "nothing is wider than the screen");
  },
});

async function themes({ page, open }) {
  await open();
  const scheme = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const seen = [await scheme()];
  for (let count = 0; count < 3; count += 1) {
    await page.click("#theme");
    seen.push(await scheme());
  }
  const [light, dark] = ["rgb(247, 246, 243)", "rgb(20, 23, 27)"];
  assert.deepEqual(seen, [light, light, dark, light]);
  await page.click("#theme");
  await page.click("#theme");
  await page.reload();
  assert.equal(await scheme(), dark, "it is remembered");
}

async function policy({ page, open }) {
  await open();
  // A script that is not the page's does not run, and nothing else is asked.
  await page.evaluate(() => {
    const script = document.createElement("script");
    try { script.textContent = "window.ran = true"; } catch { /* A trusted type is wanted. */ }
    document.body.append(script);
    return fetch("http://127.0.0.1:9/").catch(() => {});
  });
  assert.equal(await page.evaluate(() => window.ran), undefined);
}

export const checks = [
  { name: "tokens stream, stop, and go on", run: streams },
  { name: "probabilities on hover and as colours", run: showsProbabilities },
  { name: "a token's alternatives lead to branches", run: branches },
  { name: "a chat of several turns", run: chats },
  { name: "every parameter", run: parameters },
  { name: "errors with their fields", run: errors, expects: ["Failed to load resource"] },
  { name: "a key is asked for", run: asksForAKey, expects: ["Failed to load resource"] },
  { name: "gauges move", run: gauges },
  { name: "gauges of ranks, and none without metrics", run: gaugesOfRanksAndNone, expects: ["Failed to load resource"] },
  { name: "by keyboard alone", run: keyboardAlone },
  { name: "themes", run: themes },
  { name: "the policy holds", run: policy, expects: ["Content Security Policy", "TrustedScript", "asks http://127.0.0.1:9/"] },
  ...looks.map(look => ({ ...accessible(look), expects: ["Failed to load resource"] })),
];

// Start the page, and keep it current: every few seconds it asks whether something was loaded.

import {ApiError, get, hasKey, setKey} from "./api.js";
import {carry, startCarry} from "./carry.js";
import {coverage, startCoverage} from "./coverage.js";
import {$, el, showState, withCode} from "./dom.js";
import {duration} from "./format.js";
import {health, perpetuals, showStatus, withOptions} from "./loading.js";
import {followsNewTrades, market, showPrice, startMarket} from "./market.js";
import {startVolatility, volatility} from "./volatility.js";

const EVERY_MS = 5_000;
const SLOW_MS = 30_000; // for what changes by the hour
const HEALTH_MS = 60_000;

let isStarted = false;
let loadedAt = null;
let slowAt = 0;
let healthAt = 0;

/** Ask whether something was loaded, and draw again what that changes. */
async function tick() {
  if (!isStarted) await start();
  const isFirst = loadedAt === null;
  const asked = get("/v1/backfill/status").then(followStatus);
  await Promise.all(isFirst ? [asked, ...refresh(true)] : [asked.then(isNew => Promise.all(refresh(isNew)))]);
}

/** Draw the progress; returns whether something was loaded since the last time. */
function followStatus(status) {
  showStatus(status);
  if (!status.items.length) throw new ApiError(503, "not_loaded", "Nothing is loaded yet. Load trades with `make run`, or start the demo with `make demo`.");
  hideBanner();
  const isNew = status.last_load_at !== loadedAt;
  loadedAt = status.last_load_at;
  const age = loadedAt ? (Date.now() - Date.parse(loadedAt)) / 1000 : null;
  showPulse("live", isNew, age === null ? "Connected" : `Loaded ${duration(age)} ago`);
  return isNew;
}

/** Updates that are due: at once of what follows every trade, after SLOW_MS of the rest. */
function refresh(isNew) {
  const now = Date.now();
  const updates = [];
  if (isNew && (followsNewTrades() || !market.isDrawn)) updates.push(market.update(), showPrice());
  const hasFailed = document.querySelector('.card[data-status="failed"]') !== null;
  if ((isNew || hasFailed) && now - slowAt >= SLOW_MS) {
    slowAt = now;
    updates.push(coverage.update(), volatility.update(), carry.update());
  }
  if (now - healthAt >= HEALTH_MS) {
    healthAt = now;
    updates.push(health.update());
  }
  return updates;
}

async function start() {
  for (const card of document.querySelectorAll(".card")) if (!card.dataset.version) showState(card, "loading", "Loading …");
  const names = await perpetuals();
  startCarry(names);
  startVolatility(await withOptions([...names.keys()]));
  await startMarket();
  isStarted = true;
}

async function run() {
  for (;;) {
    if (!document.hidden) {
      try {
        await tick();
      } catch (error) {
        fail(error);
      }
    }
    await new Promise(resolve => setTimeout(resolve, EVERY_MS));
  }
}

function fail(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof ApiError)) console.error(error);
  if (error.status === 0 || !isStarted) {
    slowAt = healthAt = 0;
    loadedAt = null;
  }
  showPulse("failed", false, error.status === 0 ? "Not connected" : "No data");
  showBanner(error);
  if (isStarted && error.code !== "not_loaded") return; // each card has a state of its own
  for (const card of document.querySelectorAll(".card")) {
    if (!card.dataset.version) showState(card, "empty", "Nothing to show.", "The reason is at the top of the page.");
  }
}

function showBanner(error) {
  const banner = $("banner");
  const sentence = error instanceof ApiError ? error.message : `The page failed: ${error.message}.`;
  if (!banner.hidden && banner.dataset.sentence === sentence) return; // a key that is being written remains
  banner.dataset.sentence = sentence;
  banner.hidden = false;
  banner.replaceChildren(el("p", {}, withCode(sentence)));
  if (error.status !== 401) return;
  const wasRejected = hasKey();
  const input = el("input", {id: "key", type: "password", autocomplete: "off", placeholder: "Key", required: true});
  banner.append(el("form", {onsubmit: event => { event.preventDefault(); setKey(input.value.trim()); banner.dataset.sentence = ""; tick().catch(fail); }},
    el("label", {for: "key"}, wasRejected ? "This key was rejected; another one:" : "Key:"), input, el("button", {class: "plain"}, "Use this key")));
  if (wasRejected) input.focus();
}

function hideBanner() {
  $("banner").hidden = true;
}

function showPulse(state, isFresh, text) {
  const pulse = $("pulse");
  pulse.className = `pulse ${state}`;
  if (isFresh) requestAnimationFrame(() => pulse.classList.add("fresh"));
  $("pulse-text").textContent = text;
}

document.addEventListener("failed", event => fail(event.detail));
document.addEventListener("visibilitychange", () => { if (!document.hidden) tick().catch(fail); });
startCoverage();
run();

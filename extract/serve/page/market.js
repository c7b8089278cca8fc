// Candles of one instrument with volume, block trades and liquidations. A zoom loads the level that fits it.

import {get} from "./api.js";
import {Card} from "./card.js";
import {axis, draw} from "./charts.js";
import {$, el, segments, showState} from "./dom.js";
import {decimal, minute, priceDigits, short, whole} from "./format.js";

const TIMEFRAMES = ["1h", "24h", "7d", "30d", "90d", "1y", "all"].map(value => ({value, label: value}));
const BASES = [
  {value: "tape", label: "Whole tape", title: "Candles of all trades"},
  {value: "book", label: "Order book", title: "Candles without block trades and combo legs"},
];
const LEVELS = ["auto", "1m", "15m", "1h", "4h", "1d", "1w", "1mo"];
const MARKS = [{value: "block", label: "Block trades", swatch: "block"}, {value: "liquidation", label: "Liquidations", swatch: "liquidation"}];
const MOST_CANDLES = 2_000;
const MOST_MARKS = 400;
const SHORTEST_MS = 10 * 60_000;

let instrument = null; // a row of /v1/instruments
let timeframe = "24h";
let level = "auto";
let range = null; // [since, until] in ms of a zoom; null: the timeframe
let basis = "tape";
const marks = new Set(["block", "liquidation"]);
let shown = null; // [since, until] in ms of what is drawn
let pressTimeframe = () => {};

const iso = ms => `${new Date(ms).toISOString().slice(0, 19)}Z`;
const path = () => `/v1/instruments/${encodeURIComponent(instrument.instrument_name)}`;

export const market = new Card({
  card: "market",
  route: () => instrument && [`${path()}/candles`, {
    ...(range ? {since: iso(range[0]), until: iso(range[1])} : {timeframe}), level: level === "auto" ? null : level, order: "desc", limit: MOST_CANDLES,
  }],
  draw: drawCandles,
});

/** Whether new trades change what is shown. */
export const followsNewTrades = () => range === null || range[1] >= Date.now() - 60_000;

export async function startMarket() {
  pressTimeframe = segments($("timeframe"), TIMEFRAMES, timeframe, value => { timeframe = value; range = null; market.change(); });
  segments($("basis"), BASES, basis, value => { basis = value; market.change(); });
  segments($("marks"), MARKS, marks, () => market.change());
  $("level-choice").replaceChildren(...LEVELS.map(value => el("option", {value}, value === "auto" ? "auto level" : value)));
  $("level-choice").addEventListener("change", event => { level = event.target.value; market.change(); });
  const zooms = [["‹", "Earlier", -0.5, 1], ["›", "Later", 0.5, 1], ["−", "Zoom out", 0, 2], ["+", "Zoom in", 0, 0.5]];
  $("zoom").replaceChildren(...zooms.map(([label, name, shift, scale]) => el("button", {type: "button", "aria-label": name, title: name, onclick: () => zoom(shift, scale)}, label)),
    el("button", {type: "button", onclick: reset}, "Reset"));
  $("instrument").addEventListener("input", () => suggest($("instrument").value));
  $("instrument").addEventListener("change", () => choose($("instrument").value));
  instrument = (await named("BTC-PERPETUAL"))[0] ?? (await get("/v1/instruments", {limit: 1})).items[0] ?? null;
  if (instrument) $("instrument").value = instrument.instrument_name;
}

async function named(prefix) {
  const answer = await get("/v1/instruments", {prefix, limit: 100});
  return answer.items;
}

async function suggest(text) {
  const prefix = text.trim().toUpperCase();
  const items = prefix ? await named(prefix).catch(() => []) : [];
  $("instruments").replaceChildren(...items.map(each => el("option", {value: each.instrument_name}, each.is_active ? "" : "expired")));
}

async function choose(text) {
  const name = text.trim().toUpperCase();
  const item = (await named(name).catch(() => [])).find(each => each.instrument_name.toUpperCase() === name);
  if (!item) return showState(market.element, "empty", `No instrument is named ${name || "so"}.`, "Write the beginning of a name, such as BTC-, and select one from the list.");
  instrument = item;
  $("instrument").value = item.instrument_name;
  range = null;
  market.isDrawn = false;
  await market.change();
  await showPrice();
}

/** The current price, if the instrument can be traded. */
export async function showPrice() {
  const isOver = !instrument || (instrument.expires_at && Date.parse(instrument.expires_at) < Date.now()) || !instrument.trade_count;
  if (isOver) return $("price").replaceChildren(instrument?.expires_at ? `expired ${minute(instrument.expires_at)}` : "");
  const price = await get(`${path()}/price`);
  const change = price.change_24h === null ? null : Number(price.change_24h);
  const digits = priceDigits(price.price);
  $("price").replaceChildren(
    el("b", {}, decimal(price.price, digits, Math.min(digits, 2))),
    change === null ? "" : el("span", {class: change < 0 ? "down" : "up"}, `${change < 0 ? "▼" : "▲"} ${decimal(Math.abs(change) * 100, 2, 2)} %`),
    el("span", {}, `24 h ${decimal(price.low_24h, digits)} – ${decimal(price.high_24h, digits)}`),
    el("span", {}, `${short(price.volume_24h)} ${price.underlying ?? ""} in ${whole(price.trades_24h)} trades`),
  );
}

function zoom(shift, scale) {
  if (!shown) return;
  const [since, until] = shown;
  const half = Math.max((until - since) * scale, SHORTEST_MS) / 2;
  const middle = Math.min((since + until) / 2 + shift * (until - since), Date.now());
  setRange([middle - half, middle + half]);
}

function reset() {
  if (range === null) return;
  range = null;
  pressTimeframe(timeframe);
  market.change();
}

function setRange(wanted) {
  const least = Math.max(SHORTEST_MS - (wanted[1] - wanted[0]), 0) / 2;
  range = [wanted[0] - least, wanted[1] + least].map(ms => Math.round(ms / 1000) * 1000);
  pressTimeframe(null);
  market.change();
}

async function drawCandles(answer) {
  const items = answer.items.toReversed();
  shown = [Date.parse(answer.since), Date.parse(answer.until)];
  const part = answer.next_cursor ? `, the newest ${whole(MOST_CANDLES)}` : "";
  $("level").textContent = `${answer.level} candles${part} · ${minute(answer.since)} – ${minute(answer.until)}`;
  if (!items.length) return `${instrument.instrument_name} has no trades in this time.`;
  const marksOf = await Promise.all([...marks].map(async kind => [kind, await marked(kind, answer)]));
  const unit = instrument.underlying ?? "";
  const isBook = basis === "book";
  const rows = isBook ? items.filter(each => each.book_trade_count) : items;
  const column = name => rows.map(each => (each[isBook ? `book_${name}` : name] === null ? null : Number(each[isBook ? `book_${name}` : name])));
  const x = rows.map(each => each.bucket_at);
  const last = rows.at(-1) ?? items.at(-1);
  $("candles").setAttribute("aria-label", `${rows.length} candles of ${instrument.instrument_name}, ${answer.level} each, with volume; the last close is ${decimal(last.close, 6)} at ${minute(last.bucket_at)}`);
  await draw("candles", palette => {
    const volume = (name, values, colour) => ({type: "bar", name, x, y: values, yaxis: "y2", marker: {color: colour, line: {width: 0}}, opacity: 0.75, hovertemplate: `%{y:,.6~f} ${unit}`});
    const traces = [
      {type: "candlestick", name: "Price", x, open: column("open"), high: column("high"), low: column("low"), close: column("close"), whiskerwidth: 0,
        increasing: {line: {color: palette.up, width: 1.3}, fillcolor: palette.surface}, decreasing: {line: {color: palette.down, width: 1.3}, fillcolor: palette.down}},
      ...(isBook ? [volume("Volume", column("volume"), palette.muted)] : [
        volume("Bought", rows.map(each => Number(each.buy_volume)), palette.up),
        volume("Sold", rows.map(each => Number(each.sell_volume)), palette.down),
      ]),
      ...marksOf.map(([kind, trades]) => markTrace(kind, trades, palette, unit)),
    ];
    return {traces, layout: {
      barmode: "stack", bargap: 0.25, hovermode: "x unified",
      xaxis: axis(palette, {type: "date", range: [iso(shown[0]), iso(shown[1])], rangeslider: {visible: false}, fixedrange: false, anchor: "y2", showgrid: false, showspikes: true, spikemode: "across", spikethickness: 1, spikedash: "solid", spikecolor: palette.line, hoverformat: "%Y-%m-%d %H:%M"}),
      yaxis: axis(palette, {domain: [0.27, 1], side: "right", tickformat: ",~f", nticks: 7}),
      yaxis2: axis(palette, {domain: [0, 0.2], side: "right", tickformat: Math.max(...column("volume")) >= 1000 ? ".3~s" : ",.3~r", nticks: 3, rangemode: "tozero", title: {text: unit, font: {size: 11, color: palette.muted}}}),
    }};
  }, {fixed: matchMedia("(pointer: coarse)").matches});
  listenToZoom();
}

async function marked(kind, answer) {
  const parameters = {since: answer.since, until: answer.until, order: "desc", limit: MOST_MARKS, [`is_${kind}`]: true};
  return (await get(`${path()}/trades`, parameters)).items;
}

function markTrace(kind, trades, palette, unit) {
  const sizes = trades.map(each => Number(each.volume));
  const most = Math.max(...sizes, 1e-12);
  return {
    type: "scatter", mode: "markers", name: kind === "block" ? "Block trade" : "Liquidation",
    x: trades.map(each => each.timestamp), y: trades.map(each => Number(each.price)), text: trades.map(each => `${each.direction} ${decimal(each.volume, 6)} ${unit}`),
    hovertemplate: "%{y:,.6~f}, %{text}",
    marker: {symbol: kind === "block" ? "diamond" : "triangle-up", color: palette[`mark-${kind}`], size: sizes.map(each => 7 + 7 * Math.sqrt(each / most)), line: {color: palette.surface, width: 1.2}, opacity: 0.95},
  };
}

let listens = false;

function listenToZoom() {
  if (listens) return;
  listens = true;
  const element = $("candles");
  element.on("plotly_relayout", change => {
    const edges = [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    if (edges[0] && edges[1]) setRange(edges.map(edge => Date.parse(`${String(edge).replace(" ", "T").slice(0, 23).replace(/Z$/, "")}Z`)));
  });
  element.on("plotly_doubleclick", reset);
}


// The volatility smile, the term structure and the volatility index of one underlying.

import {get} from "./api.js";
import {Card} from "./card.js";
import {axis, draw, ramp} from "./charts.js";
import {$, choice} from "./dom.js";
import {minute} from "./format.js";

const DELTAS = [[-0.1, "10Δ put", "10P"], [-0.25, "25Δ put", "25P"], [0.5, "at the money", "ATM"], [0.25, "25Δ call", "25C"], [0.1, "10Δ call", "10C"]];
const HOUR_MS = 3_600_000;

let currency = "BTC";
let hour = null; // of smile and term structure; null: the newest

const route = curve => () => [`/v1/volatility/${currency}/${curve}`, {at: hour}];

const smile = new Card({card: "smile-card", route: route("smile"), draw: drawSmile});
const term = new Card({card: "term-card", route: route("term-structure"), draw: drawTerm});
const dvol = new Card({card: "dvol-card", route: () => [`/v1/volatility/${currency}/dvol`, {since: "30d", limit: 1000}], draw: drawDvol});

export const volatility = {
  async update() {
    await pickHour();
    await Promise.all([smile, term, dvol].map(card => card.update()));
  },
};

export function startVolatility(currencies) {
  currency = currencies[0] ?? "BTC";
  choice($("volatility-currency"), currencies, currency, value => {
    currency = value;
    for (const card of [smile, term, dvol]) card.isDrawn = false;
    volatility.update().catch(error => document.dispatchEvent(new CustomEvent("failed", {detail: error})));
  });
}

/** The newest hour, or the one before it while that one has more of the smile. */
async function pickHour() {
  hour = null;
  const newest = await get(...route("smile")());
  if (!newest.at) return;
  const before = new Date(Date.parse(newest.at) - HOUR_MS).toISOString().slice(0, 19) + "Z";
  const previous = await get(`/v1/volatility/${currency}/smile`, {at: before});
  if (previous.items.length > newest.items.length) hour = before;
}

/** The rows of the settlement currency with the most of them: options of one expiry may settle in coin and in dollars. */
function ofOneSettlement(items) {
  const counts = new Map();
  for (const each of items) counts.set(each.settlement_currency, (counts.get(each.settlement_currency) ?? 0) + 1);
  const [most] = [...counts].sort((a, b) => b[1] - a[1])[0] ?? [];
  return items.filter(each => each.settlement_currency === most);
}

function drawSmile(answer) {
  const expiries = new Map();
  for (const each of ofOneSettlement(answer.items)) {
    if (!expiries.has(each.expiry)) expiries.set(each.expiry, new Map());
    expiries.get(each.expiry).set(Number(each.delta), each);
  }
  const curves = [...expiries].filter(([, points]) => points.size > 1).sort(([a], [b]) => (a < b ? -1 : 1));
  if (!curves.length) return `No expiry of ${currency} has a smile: too few strikes are traded in an hour.`;
  return draw("smile", (palette, isNarrow) => {
    const names = DELTAS.map(each => each[isNarrow ? 2 : 1]);
    const lines = ramp(curves.length);
    const traces = curves.map(([expiry, points], at) => ({
      type: "scatter", mode: "lines+markers", name: dayName(expiry), connectgaps: true,
      x: names, y: DELTAS.map(([delta]) => (points.has(delta) ? Number(points.get(delta).iv) : null)),
      line: {color: lines[at], width: 2, shape: "spline", smoothing: 0.6}, marker: {color: lines[at], size: 6}, hovertemplate: "%{y:.2f} %",
    }));
    return {traces, layout: {
      showlegend: true, title: hourTitle(answer.at, palette), margin: {l: 8, r: 8, t: 34, b: 8},
      legend: isNarrow ? {orientation: "h", x: 0, y: -0.12, xanchor: "left", yanchor: "top", font: {size: 11}} : {orientation: "v", x: 1.02, y: 1, xanchor: "left", yanchor: "top", font: {size: 11}, title: {text: "Expiry", font: {size: 11, color: palette.muted}}},
      xaxis: axis(palette, {type: "category", categoryarray: names, categoryorder: "array", showgrid: false}),
      yaxis: axis(palette, {ticksuffix: " %", nticks: 6}),
    }};
  }).then(() => undefined);
}

async function drawTerm(answer) {
  const tenors = ofOneSettlement(answer.items).sort((a, b) => a.tenor_days - b.tenor_days);
  const smiles = await get(...route("smile")());
  const expiries = ofOneSettlement(smiles.items).filter(each => Number(each.delta) === 0.5).sort((a, b) => a.days_to_expiry - b.days_to_expiry);
  if (!tenors.length && !expiries.length) return `${currency} has no term structure: too few expiries are traded in an hour.`;
  await draw("term", (palette, isNarrow) => {
    const days = isNarrow ? [1, 2, 7, 30, 90, 365] : [1, 2, 7, 14, 30, 60, 90, 180, 365];
    const line = (name, column, colour, dash) => ({
      type: "scatter", mode: "lines+markers", name, x: tenors.map(each => each.tenor_days), y: tenors.map(each => (each[column] === null ? null : Number(each[column]))),
      line: {color: colour, width: 2, dash}, marker: {color: colour, size: 6}, hovertemplate: "%{y:.2f} %",
    });
    const traces = [
      line("At the money", "atm_iv", palette.accent, "solid"), line("25Δ put", "put_25_iv", palette.down, "dot"), line("25Δ call", "call_25_iv", palette.link, "dash"),
      {type: "scatter", mode: "markers", name: "Each expiry, at the money", x: expiries.map(each => Number(each.days_to_expiry)), y: expiries.map(each => Number(each.iv)),
        text: expiries.map(each => dayName(each.expiry)), marker: {color: palette.surface, size: 8, line: {color: palette.accent, width: 1.8}}, hovertemplate: "%{y:.2f} %, %{text}"},
    ];
    return {traces, layout: {
      showlegend: true, title: hourTitle(answer.at ?? smiles.at, palette), margin: {l: 8, r: 8, t: 58, b: 8}, hovermode: "closest",
      legend: {orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom", font: {size: 11}},
      xaxis: axis(palette, {type: "log", tickvals: days, ticktext: days.map(each => `${each} d`), tickangle: 0, showgrid: false}),
      yaxis: axis(palette, {ticksuffix: " %", nticks: 6}),
    }};
  });
}

function drawDvol({items}) {
  if (!items.length) return `No volatility index of ${currency} is loaded.`;
  const x = items.map(each => each.timestamp);
  const values = name => items.map(each => Number(each[name]));
  return draw("dvol", palette => ({
    traces: [
      {type: "scatter", mode: "lines", x, y: values("high"), line: {width: 0}, hoverinfo: "skip"},
      {type: "scatter", mode: "lines", x, y: values("low"), line: {width: 0}, fill: "tonexty", fillcolor: translucent(palette.accent), hoverinfo: "skip"},
      {type: "scatter", mode: "lines", name: "DVOL", x, y: values("close"), line: {color: palette.accent, width: 1.8}, hovertemplate: "%{y:.2f} %"},
    ],
    layout: {xaxis: axis(palette, {type: "date", showgrid: false, hoverformat: "%Y-%m-%d %H:%M"}), yaxis: axis(palette, {ticksuffix: " %", nticks: 5, side: "right"})},
  })).then(() => undefined);
}

const translucent = colour => colour.replace("rgb(", "rgba(").replace(")", ", 0.2)");
const dayName = iso => new Date(iso).toLocaleDateString("en-GB", {day: "numeric", month: "short", year: "2-digit", timeZone: "UTC"});
const hourTitle = (at, palette) => ({text: at ? `Trades of the hour from ${minute(at)}` : "", font: {size: 12, color: palette.muted}, x: 0, xanchor: "left", y: 1, yanchor: "top", yref: "container", pad: {t: 4}});

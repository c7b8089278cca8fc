// Funding and open interest of one underlying.

import {Card} from "./card.js";
import {axis, draw} from "./charts.js";
import {$, choice, el, segments} from "./dom.js";

const HOURS_A_YEAR = 24 * 365;

let currency = "BTC";
let perpetuals = new Map(); // by underlying
let group = null; // of the open interest

const funding = new Card({
  card: "funding-card",
  route: () => perpetuals.has(currency) && [`/v1/instruments/${encodeURIComponent(perpetuals.get(currency))}/funding`, {level: "1h", since: "14d", limit: 400}],
  draw: drawFunding,
  without: () => `No perpetual of ${currency} is loaded.`,
});
const interest = new Card({
  card: "interest-card",
  route: () => [`/v1/open-interest/${currency}`, {since: "60d", limit: 1000}],
  draw: drawInterest,
});

export const carry = {
  async update() {
    await Promise.all([funding.update(), interest.update()]);
  },
};

/** `names`: the perpetual of each underlying. */
export function startCarry(names) {
  perpetuals = names;
  currency = names.has("BTC") ? "BTC" : names.keys().next().value ?? "BTC";
  choice($("carry-currency"), [...names.keys()], currency, value => {
    currency = value;
    group = null;
    funding.isDrawn = interest.isDrawn = false;
    carry.update().catch(error => document.dispatchEvent(new CustomEvent("failed", {detail: error})));
  });
}

function drawFunding({items}) {
  const name = perpetuals.get(currency);
  $("funding-card").querySelector("h3").textContent = `Funding of ${name}`;
  if (!items.length) return `No funding of ${name} is loaded for the last 14 days.`;
  const rates = items.map(each => Number(each.interest_1h));
  return draw("funding", palette => ({
    traces: [{
      type: "bar", name: "Longs pay", x: items.map(each => each.timestamp), y: rates.map(rate => rate * 100), customdata: rates.map(rate => rate * 100 * HOURS_A_YEAR),
      marker: {color: rates.map(rate => (rate < 0 ? palette.down : palette.up)), line: {width: 0}}, hovertemplate: "%{y:.5f} % an hour, %{customdata:.1f} % a year",
    }],
    layout: {
      bargap: 0.1, title: note("per hour; longs pay a positive rate", palette), margin: {l: 8, r: 8, t: 34, b: 8},
      xaxis: axis(palette, {type: "date", showgrid: false, hoverformat: "%Y-%m-%d %H:%M"}), yaxis: axis(palette, {ticksuffix: " %", nticks: 6, zeroline: true, zerolinecolor: palette.muted}),
    },
  })).then(() => undefined);
}

const title = ([kind, settlement]) => `${kind}s${settlement === currency ? "" : ` in ${settlement}`}`;
/** Inverse futures are counted in US dollars, everything else in coin. */
const unit = ([kind, settlement]) => (kind === "future" && settlement === currency ? "USD" : currency);

function drawInterest({items}) {
  const groups = new Map(items.map(each => [`${each.kind} ${each.settlement_currency}`, [each.kind, each.settlement_currency]]));
  const names = [...groups.keys()].sort();
  chooser(names.map(value => ({value, label: title(groups.get(value))})), items);
  if (!names.length) return `No open interest of ${currency} is recorded: settlements are loaded with series, that of options with \`book_summaries\` switched on.`.replaceAll("`", "");
  if (!groups.has(group)) group = names[0];
  const rows = items.filter(each => `${each.kind} ${each.settlement_currency}` === group);
  return draw("interest", palette => ({
    traces: [{
      type: "scatter", mode: rows.length > 40 ? "lines" : "lines+markers", name: "Open interest", x: rows.map(each => each.day), y: rows.map(each => Number(each.open_interest)),
      text: rows.map(each => `${each.instruments} instruments, ${each.source === "settlement" ? "at settlement" : "snapshot"}`),
      line: {color: palette.link, width: 2}, marker: {size: 6, color: palette.link}, fill: "tozeroy", fillcolor: palette.link.replace("rgb(", "rgba(").replace(")", ", 0.12)"),
      hovertemplate: `%{y:,.4~f} ${unit(groups.get(group))}, %{text}`,
    }],
    layout: {
      title: note(`in ${unit(groups.get(group))}, once a day`, palette), margin: {l: 8, r: 8, t: 34, b: 8},
      xaxis: axis(palette, {type: "date", showgrid: false, hoverformat: "%Y-%m-%d"}), yaxis: axis(palette, {tickformat: ".3~s", nticks: 6, rangemode: "tozero"}),
    },
  })).then(() => undefined);
}

function chooser(choices, items) {
  const header = $("interest-card").querySelector("header");
  let container = header.querySelector(".segments");
  if (!container) container = header.appendChild(el("div", {class: "segments", role: "group", "aria-label": "Kind of the open interest"}));
  if (choices.length < 2) return container.replaceChildren();
  segments(container, choices, group ?? choices[0].value, value => { group = value; drawInterest({items}); });
}

const note = (text, palette) => ({text, font: {size: 12, color: palette.muted}, x: 0, xanchor: "left", y: 1, yanchor: "top", yref: "container", pad: {t: 4}});

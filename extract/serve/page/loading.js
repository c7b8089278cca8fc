// Progress of the backfill, the summary at the top, and the health checks.

import {get} from "./api.js";
import {Card, proof} from "./card.js";
import {$, el, showState, table, withCode} from "./dom.js";
import {decimal, duration, minute, percent, short, whole} from "./format.js";

/** Draw the answer of /v1/backfill/status. */
export function showStatus(status) {
  const lag = status.coverage.as_of ? (Date.now() - Date.parse(status.coverage.as_of)) / 1000 : null;
  const figure = (name, value, note, state) => el("div", {}, el("dt", {}, name), el("dd", {class: state}, value), el("dd", {class: "small"}, note));
  $("figures").replaceChildren(
    figure("Trades", whole(status.trades), `in ${withTrades(status.items).length} streams`),
    figure("Proven", percent(status.proven_share), "of all trade numbers", status.missing ? "bad" : "ok"),
    figure("Missing", whole(status.missing), status.missing ? "fetch them: tape repair" : "nothing to fetch", status.missing ? "bad" : null),
    figure("Absent", whole(status.absent), "at the exchange itself", status.absent ? "warn" : null),
    figure("Behind", duration(lag), status.coverage.as_of ? `proven to ${minute(status.coverage.as_of)}` : "no time is covered"),
  );
  const rate = status.trades_per_second === null ? "" : `${decimal(status.trades_per_second, 1)} trades/s`;
  const left = status.seconds_left ? `, ${duration(status.seconds_left)} left` : "";
  $("rate").textContent = rate ? rate + left : status.status;
  $("progress").replaceChildren(table(
    ["Stream", "Status", "Done", "Trades", "Missing", "Absent", "Rate", "Left", "Loaded to"],
    withTrades(status.items).map(row),
    [3, 4, 5, 6, 7],
  ));
  const card = $("progress-card");
  showState(card, null);
  card.dataset.version = Number(card.dataset.version || 0) + 1;
  card.querySelector("[data-footer]").replaceChildren(proof(status.coverage), el("span", {class: "data"}, el("span", {}, "Take as"), el("a", {href: "/v1/backfill/status"}, "JSON")));
}

/** The streams that have trades, or lack some: the exchange lists kinds of a currency that are never traded. */
export const withTrades = streams => streams.filter(each => each.trades || each.missing || each.absent);

/** A completed stream has no percentage: its time ends minutes before the newest load, which would show as 99.9 %. */
function row(stream) {
  const share = stream.percent / 100;
  return [
    el("span", {}, el("b", {}, stream.currency), ` ${stream.kind.replace("_", " ")}`),
    el("span", {class: `badge ${{completed: "ok", error: "alarm", running: "ok"}[stream.status] ?? ""}`}, stream.status),
    el("span", {}, el("span", {class: `meter ${stream.missing ? "missing" : ""}`, "aria-hidden": "true"}, el("i", {share})), stream.status === "completed" ? "" : percent(share, 1)),
    whole(stream.trades), whole(stream.missing), whole(stream.absent),
    stream.trades_per_second === null ? "–" : `${short(stream.trades_per_second)}/s`,
    stream.seconds_left ? duration(stream.seconds_left) : "–",
    minute(stream.current),
  ];
}

export const health = new Card({
  card: "health-card",
  route: () => ["/v1/health"],
  formats: ["json"],
  draw({items}) {
    if (!items.length) return "No check has a result.";
    $("checks").replaceChildren(...items.map(each => el("li", {}, el("span", {class: `badge ${each.state}`}, each.state), el("b", {}, each.check), el("span", {}, withCode(each.text)))));
  },
});

/** Underlyings with a perpetual, each with the name of one; those of inverse perpetuals first. */
export async function perpetuals() {
  const {items} = await get("/v1/instruments", {kind: "future", expired: false, limit: 1000});
  const names = items.filter(each => each.instrument_name.endsWith("-PERPETUAL") && each.trade_count).sort((a, b) => b.trade_count - a.trade_count);
  const result = new Map();
  for (const each of names) if (!result.has(each.underlying)) result.set(each.underlying, each.instrument_name);
  return result;
}

/** Those of the underlyings that have options. */
export async function withOptions(underlyings) {
  const answers = await Promise.all(underlyings.map(currency => get("/v1/instruments", {currency, kind: "option", expired: false, limit: 1})));
  return underlyings.filter((_, at) => answers[at].items.length);
}

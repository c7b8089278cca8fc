// The calendar of coverage: a row for each stream, a cell for each day.

import {ApiError, get} from "./api.js";
import {Card} from "./card.js";
import {$, el, segments, table, withCode} from "./dom.js";
import {withTrades} from "./loading.js";
import {addDays, minute, percent, today, whole} from "./format.js";

const SPANS = [{value: 30, label: "30 d"}, {value: 90, label: "90 d"}, {value: 365, label: "1 y"}];
const STATES = {proven: "proven", absent: "absent at the exchange", missing: "missing", not_requested: "not requested"};

let days = 30;
let last = null; // the last day shown; null: today
let selected = null; // {currency, kind, day}

const end = () => last ?? today();
const first = () => addDays(end(), 1 - days);

export const coverage = new Card({
  card: "coverage",
  route: () => ["/v1/coverage", {since: first(), until: addDays(end(), 1)}],
  formats: ["json"],
  draw(answer) {
    const streams = withTrades(answer.items);
    if (!streams.length) return "No stream has trades yet.";
    drawCalendar(streams);
    const others = answer.items.length - streams.length;
    $("coverage-others").textContent = others ? `${others} more streams were requested and have no trade at all.` : "";
    if (selected) showGaps(selected);
  },
});

export function startCoverage() {
  segments($("coverage-days"), SPANS, days, value => { days = value; coverage.change(); });
  $("coverage-earlier").addEventListener("click", () => move(-days));
  $("coverage-later").addEventListener("click", () => move(days));
  $("coverage-later").disabled = true;
}

function move(by) {
  const target = addDays(end(), by);
  last = target >= today() ? null : target;
  $("coverage-later").disabled = last === null;
  coverage.change();
}

function drawCalendar(streams) {
  const dates = streams[0].days.map(each => each.day);
  const months = el("tr", {}, el("th", {scope: "col"}, el("span", {class: "visually-hidden"}, "Stream")), dates.map((day, at) => el("th", {scope: "col", "data-day": day}, heading(day, at, dates.length))));
  let currency = null;
  const rows = streams.map(stream => {
    const isFirst = currency !== null && stream.currency !== currency;
    currency = stream.currency;
    return el("tr", {class: isFirst ? "first" : null},
      el("th", {scope: "row"}, el("b", {}, stream.currency), ` ${stream.kind.replace("_", " ")}`),
      stream.days.map(day => el("td", {}, cell(stream, day))));
  });
  const grid = el("table", {role: "grid", "aria-label": `Coverage from ${dates[0]} to ${dates.at(-1)}`, onkeydown: moveFocus}, el("thead", {}, months), el("tbody", {}, rows));
  const container = $("calendar");
  const focus = document.activeElement?.closest?.("#calendar button")?.getAttribute("aria-label");
  container.replaceChildren(grid);
  const buttons = [...container.querySelectorAll("button")];
  const reached = buttons.find(button => button.hasAttribute("aria-pressed")) ?? buttons.at(dates.length - 1);
  if (reached) reached.tabIndex = 0;
  buttons.find(button => focus && button.getAttribute("aria-label") === focus)?.focus();
  container.scrollLeft = container.scrollWidth; // the newest days, where they do not fit
}

/** The day of the month under the first, and with few days each Monday. */
function heading(day, at, count) {
  const date = new Date(`${day}T00:00:00Z`);
  const month = date.toLocaleString("en", {month: "short", timeZone: "UTC"});
  const untilMonth = new Date(Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + 1, 1)) - date;
  const hasRoom = untilMonth > (count > 90 ? 20 : 4) * 86_400_000; // before the next heading
  if ((at === 0 && hasRoom) || date.getUTCDate() === 1) return `${month} ${date.getUTCDate()}`;
  const isFree = date.getUTCDate() > 2 && at > 2;
  return count <= 90 && date.getUTCDay() === 1 && isFree ? String(date.getUTCDate()) : "";
}

function cell(stream, day) {
  const numbers = [day.missing && `${whole(day.missing)} missing`, day.absent && `${whole(day.absent)} absent`].filter(Boolean).join(", ");
  const label = `${stream.currency} ${stream.kind}, ${day.day}: ${numbers || STATES[day.state]}`;
  const isSelected = selected && selected.day === day.day && selected.currency === stream.currency && selected.kind === stream.kind;
  return el("button", {
    type: "button", class: day.state, title: label, "aria-label": label, "aria-pressed": isSelected ? "true" : null, tabindex: "-1",
    share: day.state === "proven" ? Math.max(0.15, day.covered_share) : null, onclick: event => select(event.target, {currency: stream.currency, kind: stream.kind, ...day}),
  });
}

function moveFocus(event) {
  const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], Home: [-1e6, 0], End: [1e6, 0]}[event.key];
  const from = event.target.closest("td");
  if (!step || !from) return;
  event.preventDefault();
  const row = from.parentElement;
  const column = Math.min(Math.max(from.cellIndex + step[0], 1), row.cells.length - 1);
  const rows = [...row.parentElement.rows];
  const next = rows[Math.min(Math.max(rows.indexOf(row) + step[1], 0), rows.length - 1)].cells[column].firstElementChild;
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

function select(button, day) {
  for (const other of document.querySelectorAll("#calendar [aria-pressed]")) other.removeAttribute("aria-pressed");
  button.setAttribute("aria-pressed", "true");
  selected = day;
  showGaps(day);
}

function close() {
  selected = null;
  $("gaps").hidden = true;
  document.querySelector("#calendar [aria-pressed]")?.removeAttribute("aria-pressed");
}

async function showGaps(day) {
  const panel = $("gaps");
  const title = el("h3", {}, `${day.currency} ${day.kind.replace("_", " ")} on ${day.day}`, el("button", {type: "button", class: "plain", onclick: close}, "Close"));
  panel.hidden = false;
  if (day.state === "not_requested") return panel.replaceChildren(title, el("p", {}, withCode(`Not requested. Load it with \`dlt pipeline run --since ${day.day} --currency ${day.currency} --kind ${day.kind}\`.`)));
  if (panel.dataset.of !== title.textContent) panel.replaceChildren(title, el("p", {}, "Loading …"));
  panel.dataset.of = title.textContent;
  try {
    const answer = await get("/v1/gaps", {currency: day.currency, kind: day.kind, day: day.day, limit: 100});
    if (selected === null || selected.day !== day.day) return;
    panel.replaceChildren(title, ...gapList(answer, day));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    panel.replaceChildren(title, el("p", {}, withCode(error.message)));
  }
}

function gapList(answer, day) {
  if (!answer.items.length) {
    return [el("p", {}, `Every trade number of this day is loaded; ${percent(day.covered_share, 1)} of the day is covered.`)];
  }
  const rows = answer.items.map(gap => [
    gap.instrument_name,
    gap.first_missing_seq === gap.last_missing_seq ? whole(gap.first_missing_seq) : `${whole(gap.first_missing_seq)} – ${whole(gap.last_missing_seq)}`,
    whole(gap.missing),
    gap.known_absent ? "absent at the exchange" : "missing",
    gap.after_at ? minute(gap.after_at) : "the first trade",
    gap.before_at ? minute(gap.before_at) : "now",
  ]);
  const isMissing = answer.items.some(gap => !gap.known_absent);
  const advice = isMissing ? "Fetch exactly these with `tape repair`." : "The exchange does not have these; they are requested again later.";
  return [
    el("p", {}, withCode(advice)),
    el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Gaps"}, table(["Instrument", "Trade numbers", "Trades", "State", "After", "Before"], rows, [1, 2])),
    answer.next_cursor ? el("p", {class: "hint"}, "The first 100 are shown; all are at ", el("a", {href: "/v1/gaps"}, "/v1/gaps"), ".") : "",
  ];
}


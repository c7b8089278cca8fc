// A card of the page: what it requests, and how it shows that it loads, is empty, failed, or what the answer proves.

import {ApiError, download, get, hasKey, url} from "./api.js";
import {$, el, showState, withCode} from "./dom.js";
import {second, whole} from "./format.js";

const NEXT_COMMAND = "Load some with `make run`, or start the demo with `make demo`.";

/**
 * Request data and draw them in a card.
 *
 * card    id of its element
 * route   () => [path, parameters], or null where there is nothing to request
 * draw    (answer) => void; returns a sentence instead of drawing where the answer has nothing to show
 * without () => sentence where there is nothing to request
 * formats formats in which the answer can be taken as data
 */
export class Card {
  constructor({card, route, draw, without, formats = ["csv", "parquet", "json"]}) {
    Object.assign(this, {element: $(card), route, draw, without, formats});
    this.isDrawn = false;
  }

  /** Request and draw. Raises ApiError where no answer of the server can be had at all. */
  async update() {
    const route = this.route();
    this.controller?.abort();
    if (!route) {
      if (this.without) showState(this.element, "empty", this.without(), withCode(NEXT_COMMAND));
      return;
    }
    const controller = (this.controller = new AbortController());
    if (!this.isDrawn) showState(this.element, "loading", "Loading …");
    else this.element.classList.add("is-busy");
    try {
      const [path, parameters = {}] = route;
      const answer = await get(path, parameters, {signal: controller.signal});
      if (controller.signal.aborted) return;
      showState(this.element, null); // a chart takes its size from its place, which has to be visible
      const nothing = await this.draw(answer);
      this.isDrawn = !nothing;
      if (nothing) showState(this.element, "empty", nothing, withCode(NEXT_COMMAND));
      this.showFooter(answer, route);
      this.element.dataset.version = Number(this.element.dataset.version || 0) + 1;
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof ApiError)) throw error;
      showState(this.element, "failed", "This could not be loaded.", withCode(error.message));
      if ([0, 401, 503].includes(error.status)) throw error;
    }
  }

  /** Draw again what the server answers to other parameters: the old drawing remains until then. */
  async change() {
    await this.update().catch(error => document.dispatchEvent(new CustomEvent("failed", {detail: error})));
  }

  showFooter(answer, route) {
    const footer = this.element.querySelector("[data-footer]");
    footer?.replaceChildren(proof(answer.coverage), this.formats.length ? dataLinks(route, this.formats) : "");
  }
}

/** What the answer proves, in a sentence. */
export function proof(coverage) {
  if (!coverage) return el("span");
  const {proven, missing, absent, as_of: asOf} = coverage;
  if (missing) return el("span", {class: "proof bad"}, `${whole(missing)} missing`);
  if (!proven) return el("span", {class: "proof warn"}, asOf ? `proven only to ${second(asOf)}` : "not proven: no time of it is covered");
  const until = `to ${second(asOf)}`;
  return absent ? el("span", {class: "proof warn"}, `${whole(absent)} absent at the exchange, the rest proven ${until}`) : el("span", {class: "proof ok"}, `proven ${until}`);
}

function dataLinks([path, parameters], formats) {
  const links = formats.map(format => {
    const address = url(path, {...parameters, format});
    const name = `${path.replace(/^\/v1\//, "").replaceAll("/", "-")}.${format}`;
    const take = event => {
      if (!hasKey()) return;
      event.preventDefault();
      download(address, name);
    };
    return el("a", {href: address, download: name, "data-format": format, onclick: take}, format === "json" ? "JSON" : format === "csv" ? "CSV" : "Parquet");
  });
  return el("span", {class: "data"}, el("span", {}, "Take as"), links);
}

// Elements of the document, and the states that a card can have.

/** Create an element: el("button", {type: "button", onclick}, "Text", child). */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (name === "share") element.style.setProperty("--share", value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter(child => child !== null && child !== undefined));
  return element;
}

export const $ = id => document.getElementById(id);

/** A row of buttons of which one, or with `many` any number, is pressed. Returns a function that sets what is pressed. */
export function segments(container, choices, pressed, onChange) {
  const many = pressed instanceof Set;
  const is = value => (many ? pressed.has(value) : pressed === value);
  const buttons = choices.map(({value, label, title, swatch}) =>
    el("button", {type: "button", title, "data-value": value, onclick: () => choose(value)},
      swatch ? el("span", {class: `swatch ${swatch}`, "aria-hidden": "true"}) : null, label));
  const draw = () => buttons.forEach((button, at) => button.setAttribute("aria-pressed", is(choices[at].value)));
  function choose(value) {
    if (many) pressed.delete(value) || pressed.add(value);
    else pressed = value;
    draw();
    onChange(pressed);
  }
  container.replaceChildren(...buttons);
  draw();
  return value => { pressed = value; draw(); };
}

/** Show in a card that it loads, is empty or failed, with a sentence; `null` shows its content. */
export function showState(card, kind, sentence, detail) {
  const state = card.querySelector("[data-state]");
  card.dataset.status = kind || "ready";
  card.classList.remove("is-busy");
  if (!kind) return state.replaceChildren();
  state.className = `state ${kind}`;
  const below = kind === "loading" ? el("div", {class: "bar-line"}) : null;
  state.replaceChildren(el("strong", {}, sentence), ...(detail ? [].concat(detail) : []), ...(below ? [below] : []));
}

/** A sentence in which `commands` between backquotes are shown as code. */
export function withCode(sentence) {
  return sentence.split("`").map((part, at) => (at % 2 ? el("code", {}, part) : part));
}

/** A table; cells are texts or elements, `numbers` the columns that are aligned to the right. */
export function table(header, rows, numbers = []) {
  const align = at => (numbers.includes(at) ? "number" : null);
  return el("table", {class: "table"},
    el("thead", {}, el("tr", {}, header.map((text, at) => el("th", {scope: "col", class: align(at)}, text)))),
    el("tbody", {}, rows.map(row => el("tr", {}, row.map((cell, at) => el("td", {class: align(at)}, cell))))));
}

/** A choice of one value: buttons, or a list where there are many. */
export function choice(container, values, pressed, onChange) {
  if (values.length <= 6) return segments(container, values.map(value => ({value, label: value})), pressed, onChange);
  const list = el("select", {"aria-label": container.getAttribute("aria-label"), onchange: event => onChange(event.target.value)},
    values.map(value => el("option", {value, selected: value === pressed}, value)));
  container.replaceChildren(list);
  return value => { list.value = value; };
}

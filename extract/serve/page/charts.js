// Charts in the page's colours, drawn by plotly.js as SVG.

const drawn = new Map();
const resized = new ResizeObserver(entries => {
  for (const {target} of entries) {
    const chart = drawn.get(target.id);
    if (!chart || !target.clientWidth) continue;
    if (isNarrow(target) === chart.isNarrow) Plotly.Plots.resize(target);
    else draw(target.id, chart.make, chart);
  }
});
const isNarrow = element => element.clientWidth < 480;

/** The colours of the page in the current scheme, by their name in page.css. */
export function colours() {
  const probe = document.body.appendChild(document.createElement("i"));
  const read = name => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const names = ["surface", "raised", "ink", "muted", "line", "link", "accent", "proven", "up", "down", "mark-block", "mark-liquidation"];
  const result = Object.fromEntries(names.map(name => [name, read(name)]));
  probe.remove();
  return result;
}

export const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches;

/** A colour for each of `count` lines from near (warm) to far (cool), readable on the surface. */
export function ramp(count) {
  const light = isDark() ? 70 : 43;
  return Array.from({length: count}, (_, at) => {
    const share = count > 1 ? at / (count - 1) : 0;
    return `hsl(${Math.round(18 + share * 232)} ${isDark() ? 72 : 68}% ${light + (isDark() ? 0 : -6 * Math.sin(share * Math.PI))}%)`;
  });
}

/** An axis without lines of its own; `more` overrides. */
export function axis(palette, more = {}) {
  return {
    gridcolor: palette.line, zeroline: false, linecolor: palette.line, tickcolor: palette.line, ticks: "", automargin: true,
    tickfont: {size: 12, color: palette.muted}, title: {font: {size: 12, color: palette.muted}, standoff: 8}, fixedrange: true, ...more,
  };
}

/**
 * Draw a chart, or draw it again. `make(palette, isNarrow)` returns {traces, layout}; it is called again when the
 * colour scheme changes. `fixed`: the reader can neither zoom nor move it.
 */
export function draw(id, make, {fixed = true} = {}) {
  const element = document.getElementById(id);
  const narrow = isNarrow(element);
  drawn.set(id, {make, fixed, isNarrow: narrow});
  resized.observe(element);
  const palette = colours();
  const {traces, layout} = make(palette, narrow);
  const base = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
    font: {family: getComputedStyle(document.body).fontFamily, size: 12, color: palette.ink},
    margin: {l: 8, r: 8, t: 8, b: 8}, hovermode: "x unified", hoverdistance: 40,
    hoverlabel: {bgcolor: palette.surface, bordercolor: palette.line, font: {size: 12, color: palette.ink}, align: "left"},
    legend: {orientation: "h", x: 0, y: 1, yanchor: "bottom", xanchor: "left", font: {size: narrow ? 11 : 12}, itemclick: "toggle", itemdoubleclick: "toggleothers"},
    showlegend: false, dragmode: fixed ? false : "zoom", separators: ".,",
  };
  return Plotly.react(element, traces, {...base, ...layout}, {displayModeBar: false, responsive: false, showTips: false, doubleClick: false});
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const [id, chart] of drawn) draw(id, chart.make, chart);
});

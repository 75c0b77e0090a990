"""The style and script of the report's page; neither holds anything of a model."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2128; --soft: #59636e; --line: #d1d9e0;
  --panel: #f6f8fa; --good: #0f6e3c; --plain: #9a4b00; --gone: #59636e; --bar: #1a7f4b; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #12161c; --ink: #e3e8ee; --soft: #a3adb8; --line: #38414b; --panel: #1b2129;
    --good: #6fd39b; --plain: #f2b36b; --gone: #a3adb8; --bar: #3fae74; }
}
body { margin: 0 auto; padding: 1.5rem; max-width: 110rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 1rem; }
h2 { font-size: 1rem; margin: 0 0 .25rem; }
section { margin-bottom: 1.75rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem; }
.cards > div { background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
  padding: 1rem; }
.cards h2 { font-weight: 500; color: var(--soft); }
.cards p, .cards ul { margin: .25rem 0; }
.cards ul { display: flex; flex-wrap: wrap; gap: 1rem; padding: 0; list-style: none; }
.facts p { margin: .25rem 0; }
.big { font-size: 1.6rem; font-variant-numeric: tabular-nums; }
.bar { height: .7rem; border: 1px solid var(--line); border-radius: 4px; overflow: hidden;
  background: var(--paper); }
.bar span { display: block; height: 100%; background: var(--bar); }
.state { font-weight: 600; white-space: nowrap; }
.state.quantized { color: var(--good); }
.state.float { color: var(--plain); }
.state.removed { color: var(--gone); font-weight: 400; }
.reasons li { margin-bottom: .4rem; }
.remedy { color: var(--soft); }
.warnings { border-left: 4px solid var(--plain); padding-left: 1rem; }
form { display: flex; flex-wrap: wrap; gap: 1rem; align-items: center; margin: .5rem 0; }
form[hidden] { display: none; }
fieldset { border: 0; padding: 0; margin: 0; display: flex; gap: 1rem; }
input[type=search] { font: inherit; color: inherit; background: var(--paper); min-width: 16rem;
  border: 1px solid var(--soft); border-radius: 4px; padding: .2rem .5rem; }
.scroll { overflow: auto; max-height: 85vh; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: .35rem .75rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
thead th { position: sticky; top: 0; background: var(--panel); white-space: nowrap; }
thead button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0;
  padding: 0; cursor: pointer; }
thead button::after { content: " \\2195"; color: var(--soft); }
[aria-sort=ascending] button::after { content: " \\2191"; }
[aria-sort=descending] button::after { content: " \\2193"; }
tbody th { font-weight: 500; overflow-wrap: anywhere; min-width: 12rem; }
tbody tr:hover { background: var(--panel); }
tbody tr:last-child > * { border-bottom: 0; }
code { font: .92em ui-monospace, monospace; overflow-wrap: break-word; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.off { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
:focus-visible { outline: 2px solid var(--bar); outline-offset: 2px; }
@media print { form { display: none; } .scroll { max-height: none; overflow: visible; } }
"""

SCRIPT = """
"use strict";
const body = document.querySelector("tbody");
const rows = [...body.rows];
const search = document.getElementById("search");
const boxes = [...document.querySelectorAll("[name=state]")];
const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));

function filter() {
  const words = search.value.toLowerCase().split(/\\s+/).filter(Boolean);
  const states = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
  let shown = 0;
  for (const row of rows) {
    const found = words.every((word) => texts.get(row).includes(word));
    row.hidden = !(found && states.has(row.dataset.state));
    shown += !row.hidden;
  }
  document.getElementById("shown").textContent = `${shown} of ${rows.length} sites`;
}

const order = new Intl.Collator("en", { numeric: true });
function key(row, column) {
  const cell = row.cells[column];
  return cell.dataset.key === undefined ? cell.textContent : Number(cell.dataset.key);
}
function sort(heading, column) {
  const rising = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
  const sign = rising ? 1 : -1;
  const compare = (a, b) => typeof a === "number" ? a - b : order.compare(a, b);
  rows.sort((a, b) => sign * compare(key(a, column), key(b, column)));
  body.append(...rows);
}

document.querySelectorAll("thead th").forEach((heading, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = heading.textContent;
  button.addEventListener("click", () => sort(heading, column));
  heading.replaceChildren(button);
});
search.addEventListener("input", filter);
boxes.forEach((box) => box.addEventListener("change", filter));
const form = document.querySelector("form");
form.addEventListener("submit", (event) => event.preventDefault());
form.hidden = false;
filter();
"""

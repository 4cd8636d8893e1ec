"""The page to share, without what it shows: style and script of one file that needs nothing else.

Names and figures reach the page as JSON, and are put in as text: none of them can be markup, nor code. The policy in
its head lets no script run but this one, and nothing be fetched.
"""

import base64
import hashlib
import html
import json

STYLE = """
:root { color-scheme: light dark; --paper: #f7f8fa; --card: #fff; --ink: #20232a; --faint: #667080; --line: #d6dae1;
  --accent: #2266cc; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171b; --card: #1e2127; --ink: #e8eaee; --faint: #9aa3b2;
  --line: #343944; --accent: #7db0ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
p { margin: 4px 0; color: var(--faint); max-width: 75ch; }
dl { display: flex; flex-wrap: wrap; gap: 12px 36px; margin: 20px 0; }
dt { font-size: 13px; color: var(--faint); }
dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
form { display: flex; flex-wrap: wrap; gap: 12px 20px; align-items: flex-end; padding: 14px 0; position: sticky; top: 0;
  background: var(--paper); border-block: 1px solid var(--line); margin: 20px 0; z-index: 1; }
label { font-size: 13px; color: var(--faint); display: grid; gap: 3px; }
select, button { font: inherit; font-size: 15px; color: var(--ink); background: var(--card); padding: 6px 10px;
  border: 1px solid var(--line); border-radius: 6px; }
form select, form button { height: 36px; }
button { cursor: pointer; }
button:hover, select:hover { border-color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
output { margin-left: auto; line-height: 36px; font-variant-numeric: tabular-nums; }
#grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); gap: 14px; }
#grid button { padding: 0; overflow: hidden; text-align: left; display: block; width: 100%; }
#grid img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; }
#grid span { display: block; font-size: 12px; line-height: 1.35; padding: 0 7px; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; min-height: 1.35em; color: var(--faint); }
#grid span:first-of-type { color: var(--ink); margin-top: 4px; }
#grid span:last-of-type { margin-bottom: 5px; font-variant-numeric: tabular-nums; }
dialog { border: 1px solid var(--line); border-radius: 10px; padding: 20px; background: var(--card); color: var(--ink);
  width: min(820px, calc(100vw - 32px)); }
dialog::backdrop { background: rgb(0 0 0 / 55%); }
#large { display: flex; flex-wrap: wrap; gap: 20px; align-items: flex-start; }
#large img { flex: 1 1 300px; min-width: 0; max-width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 4px; }
#large > div { flex: 1 1 240px; min-width: 0; }
#large h2 { font-size: 19px; line-height: 1.3; margin: 0 0 8px; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
td { padding: 4px 0; border-top: 1px solid var(--line); overflow-wrap: anywhere; }
td:first-child { color: var(--faint); padding-right: 16px; }
td:last-child { text-align: right; font-variant-numeric: tabular-nums; }
nav { display: flex; gap: 8px; margin-top: 16px; justify-content: flex-end; }
"""

SCRIPT = """
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const find = (name) => document.getElementById(name);
const make = (kind, parent, text) => {
  const node = document.createElement(kind);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
};
const option = (select, value, text) => { make('option', select, text).value = value; };

for (const [name, value] of data.facts) {
  const pair = make('div', find('facts'));
  make('dt', pair, name);
  make('dd', pair, value);
}
const counts = new Map();
for (const field of data.fields) counts.set(field.label, (counts.get(field.label) || 0) + 1);
option(find('label'), '', `all (${data.fields.length})`);
data.labels.forEach((name, number) => {
  if (counts.has(number)) option(find('label'), String(number), `${name} (${counts.get(number)})`);
});
find('label').parentElement.hidden = counts.size < 2;
option(find('sort'), '', 'as in the viewer');
data.columns.forEach((name, number) => option(find('sort'), String(number), name));

const tiles = data.fields.map((field, number) => {
  const tile = document.createElement('button');
  tile.type = 'button';
  tile.title = field.name;
  const picture = make('img', tile);
  picture.src = field.small;
  picture.alt = field.name;
  picture.loading = 'lazy';
  const words = field.name.split(' · ');
  make('span', tile, words.slice(0, 2).join(' · '));
  make('span', tile, words.slice(2).join(' · '));
  tile.addEventListener('click', () => enlarge(number));
  return tile;
});
let shown = [];
let descending = false;
let open = 0;

function arrange() {
  const label = find('label').value;
  const sort = find('sort').value;
  shown = data.fields.map((_, number) => number);
  if (label !== '') shown = shown.filter((number) => data.fields[number].label === Number(label));
  const sign = descending ? -1 : 1;
  if (sort === '') {
    if (descending) shown.reverse();
  } else {
    const value = (number) => data.fields[number].values[Number(sort)];
    shown.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null);  // fields without a figure come last
      return sign * (x - y) || a - b;
    });
  }
  find('grid').replaceChildren(...shown.map((number) => tiles[number]));
  find('count').textContent = `${shown.length} of ${data.fields.length} shown`;
  const turns = sort === '' ? ['In order', 'Reversed'] : ['Smallest first', 'Largest first'];
  find('turn').textContent = turns[Number(descending)];
}

function enlarge(number) {
  const field = data.fields[number];
  open = number;
  const box = find('large');
  box.replaceChildren();
  const picture = make('img', box);
  picture.src = field.large || field.small;
  picture.alt = field.name;
  const side = make('div', box);
  make('h2', side, field.name);
  const table = make('table', side);
  for (const [name, value] of field.figures) {
    const row = make('tr', table);
    make('td', row, name);
    make('td', row, value);
  }
  if (!find('dialog').open) find('dialog').showModal();
}

function step(by) {
  const at = shown.indexOf(open);
  enlarge(shown[(at + by + shown.length) % shown.length]);
}

find('label').addEventListener('change', arrange);
find('sort').addEventListener('change', arrange);
find('turn').addEventListener('click', () => { descending = !descending; arrange(); });
find('back').addEventListener('click', () => step(-1));
find('next').addEventListener('click', () => step(1));
find('close').addEventListener('click', () => find('dialog').close());
find('dialog').addEventListener('click', (event) => { if (event.target === find('dialog')) find('dialog').close(); });
find('dialog').addEventListener('keydown', (event) => {
  if (event.key === 'ArrowLeft') step(-1);
  if (event.key === 'ArrowRight') step(1);
});
arrange();
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{lines}
<dl id="facts"></dl>
<form>
<label>Class <select id="label"></select></label>
<label>Sort by <select id="sort"></select></label>
<button type="button" id="turn"></button>
<output id="count"></output>
</form>
<div id="grid"></div>
</main>
<dialog id="dialog" aria-label="One field">
<div id="large"></div>
<nav><button type="button" id="back">Back</button><button type="button" id="next">Next</button>
<button type="button" id="close">Close</button></nav>
</dialog>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def share_page(title: str, lines: list[str], data: dict) -> str:
    """A page as HTML. lines: sentences below the title; data: facts [[name, value]], labels and columns (names), and
    fields: {name, label, values, figures, small, large}, the last two data URIs, large may be None."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return PAGE.format(
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        title=html.escape(title),
        lines="\n".join(f"<p>{html.escape(line)}</p>" for line in lines),
        style=STYLE,
        data=embedded(data),
        script=SCRIPT,
    )


def embedded(data: dict) -> str:
    """JSON that may stand within a script element: nothing in it ends the element or opens a comment."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")

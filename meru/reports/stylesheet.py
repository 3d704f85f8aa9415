"""The style of `meru.reports.html`: narrow and wide screens, light and dark, paper."""

from __future__ import annotations

# Colours of lines, distinguishable with the usual kinds of colour blindness, on white and on black.
COLOURS = ("#2a7fbf", "#d55e00", "#00946b", "#c065a0", "#b58900", "#7a6fd0", "#8a8a8a")

STYLE = """
:root { color-scheme: light dark; --text: #1d2329; --faint: #5d6875; --line: #d5dae0; --page: #fff; --raised: #f5f7f9;
  --accent: #1f6fae; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e7ea; --faint: #a3adb8; --line: #3a424b; --page: #15191d;
  --raised: #1e242a; --accent: #7ab8ea; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem clamp(.8rem, 3vw, 2.4rem) 3rem; max-width: 76rem; color: var(--text);
  background: var(--page); font: 16px/1.5 system-ui, "Noto Sans", "Noto Sans CJK SC", "Microsoft YaHei", sans-serif; }
h1 { font-size: clamp(1.2rem, 5vw, 1.7rem); line-height: 1.2; margin: .4rem 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-bottom: .2rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; overflow-wrap: anywhere; }
p { margin: .4rem 0; max-width: 48rem; }
.note, figcaption, small, caption { color: var(--faint); }
.note { font-size: .9rem; }
code { font: .88em ui-monospace, "SFMono-Regular", Consolas, monospace; overflow-wrap: anywhere; }
body > input { position: absolute; opacity: 0; }
body > label { display: inline-block; padding: .1rem .6rem; border: 1px solid var(--line); cursor: pointer;
  font-size: .85rem; color: var(--faint); }
body > label[for=en] { border-radius: .4rem 0 0 .4rem; } body > label[for=zh] { border-radius: 0 .4rem .4rem 0; }
body > label[for=zh] { margin-left: -1px; }
body > input:checked + label { background: var(--accent); border-color: var(--accent); color: var(--page); }
body > input:focus-visible + label { outline: 2px solid var(--accent); outline-offset: 2px; }
#en:checked ~ main [lang=zh], #zh:checked ~ main [lang=en] { display: none; }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
caption { text-align: left; padding-bottom: .3rem; font-size: .9rem; }
th, td { padding: .32rem .7rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, .words td, .words th { text-align: left; } td { white-space: nowrap; } tbody th { min-width: 9rem; }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom; } tbody th { font-weight: 500; }
tbody tr:hover { background: var(--raised); }
td small, th small { display: block; font-weight: 400; font-size: .85em; }
.words td { white-space: normal; overflow-wrap: anywhere; min-width: 8rem; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--accent); }
.grid { display: grid; gap: 1.2rem 2rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); }
.grid.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); }
figure { margin: 0; min-width: 0; } figure svg { width: 100%; height: auto; display: block; overflow: visible; }
figure svg text { fill: currentColor; }
figure img { max-width: 100%; height: auto; display: block; background: #fff; border: 1px solid var(--line); }
figcaption { font-size: .85rem; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; padding: 0; margin: .4rem 0 .8rem; }
.legend li { overflow-wrap: anywhere; }
.swatch { display: inline-block; width: 1.4rem; height: .3rem; margin-right: .5rem; vertical-align: middle; }
@media (min-width: 44rem) { tbody th code { white-space: nowrap; } }
@media print {
  :root { color-scheme: light; --text: #000; --faint: #444; --line: #bbb; --page: #fff; --raised: #fff;
    --accent: #000; }
  body { max-width: none; padding: 0; font-size: 10pt; } table { font-size: 8.5pt; } th, td { padding: .15rem .35rem; }
  tbody th, .words td { min-width: 0; } .grid { grid-template-columns: repeat(3, 1fr); }
  .grid.wide { grid-template-columns: repeat(2, 1fr); }
  body > label { display: none; } .scroll { overflow: visible; }
figure svg text { fill: currentColor; }
  h2, h3 { break-after: avoid; } figure, tr { break-inside: avoid; } thead { display: table-header-group; }
  .swatch { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

"""How the page of a comparison looks, by day and by night: its style sheet.

Comes in: nothing. Goes out: CSS. Invariant: no font, image or rule is fetched from anywhere.
The eight colours of series keep apart for most colour-blind readers (after Okabe and Ito).
"""

STYLE = """
:root { color-scheme: light dark;
  --paper: #fdfdfb; --ink: #1c1e21; --soft: #5c6370; --rule: #dfe1e5; --card: #f4f4f0; --target: #b3261e;
  --c0: #0072b2; --c1: #d55e00; --c2: #00875f; --c3: #b5548f; --c4: #c08a00; --c5: #2aa0dc; --c6: #6a52a3;
  --c7: #80695b; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #16181c; --ink: #e6e6e3; --soft: #9aa1ad; --rule: #33373f; --card: #1f2228; --target: #ff8a80;
  --c0: #4ba3dd; --c1: #ff8f4a; --c2: #35c095; --c3: #e08cc0; --c4: #e6b422; --c5: #7fcbf5; --c6: #a792e0;
  --c7: #b89f8f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2.5rem 1.25rem 4rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2.8rem 0 .3rem; }
p { margin: .3rem 0 .8rem; } .soft { color: var(--soft); }
.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .3rem .5rem; text-align: right; white-space: nowrap; }
th { font-weight: 600; } thead tr:last-child th { border-bottom: 1px solid var(--soft); }
thead th.group { text-align: center; color: var(--soft); font-weight: 500; }
tbody td, tbody th { border-bottom: 1px solid var(--rule); }
tbody th, thead th:first-child, .words td { text-align: left; }
td.best { font-weight: 700; }
.words td { white-space: normal; overflow-wrap: anywhere; } .words th { vertical-align: top; width: 1%; }
svg { display: block; width: 100%; height: auto; margin: .4rem 0; font-size: 12px; }
svg text { fill: var(--soft); font-family: inherit; }
.grid { stroke: var(--rule); fill: none; }
.target { stroke: var(--target); stroke-dasharray: 3 4; fill: none; }
.line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; }
.line.dashed { stroke-dasharray: 7 4; } .line.dotted { stroke-dasharray: 2 3; }
.line:hover { stroke-width: 5; }
.bar { fill: var(--c); } .pale { opacity: .45; } .area { fill: var(--c); opacity: .75; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; list-style: none; margin: .3rem 0; padding: 0;
  font-size: .86rem; }
.key svg { display: inline-block; width: 26px; height: 8px; margin: 0 .35rem .1rem 0; }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); }
.c4 { --c: var(--c4); } .c5 { --c: var(--c5); } .c6 { --c: var(--c6); } .c7 { --c: var(--c7); }
@media print { body { max-width: none; } h2 { break-after: avoid; } svg { break-inside: avoid; } }
"""

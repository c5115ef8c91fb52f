"""Style of the HTML page: readable in light and dark, on paper and on a telephone."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5b6575; --paper: #f6f7f9;
  --sheet: #ffffff; --line: #dfe3e9; --accent: #21908d; --kept: #3b528b; --new: #e07b39; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebf0; --soft: #9aa5b5; --paper: #12161c;
  --sheet: #1b212a; --line: #2e3743; --accent: #35b5a9; --kept: #7d97d8; --new: #f0965a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
header, main { max-width: 1180px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 40px; }
h1 { margin: 0; font-size: 30px; line-height: 1.2; letter-spacing: -0.01em; }
header p { margin: 8px 0 0; color: var(--soft); }
section { background: var(--sheet); border: 1px solid var(--line); border-radius: 12px;
  padding: 20px 24px; margin: 20px 0; }
.full { margin-left: calc(50% - 50vw + 20px); margin-right: calc(50% - 50vw + 20px); }
h2 { margin: 0 0 8px; font-size: 19px; }
section > p { margin: 0 0 14px; color: var(--soft); max-width: 80ch; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 14px;
  background: none; border: 0; padding: 0; }
.card { background: var(--sheet); border: 1px solid var(--line); border-radius: 12px;
  padding: 14px 18px; display: flex; flex-direction: column; }
.card .name, .card .remark { color: var(--soft); font-size: 13px; }
.card .value { font-size: 26px; font-weight: 650; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 15px; }
th { text-align: left; font-weight: 600; }
thead th { color: var(--soft); font-size: 13px; border-bottom: 1px solid var(--line); }
td, th { padding: 7px 14px 7px 0; vertical-align: baseline; }
tbody tr + tr td, .bars tr + tr > * { border-top: 1px solid var(--line); }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bars th { white-space: nowrap; }
.bars .bar { width: 38%; }
.bars .bar i { display: block; height: 12px; border-radius: 3px; background: var(--accent); }
.bars .remark { color: var(--soft); font-size: 13px; }
figure { margin: 0; }
.panel { margin-bottom: 22px; }
.panel figcaption { margin-bottom: 6px; color: var(--soft); font-size: 14px; }
.panel b { color: var(--ink); margin-right: 6px; }
.picture { display: grid; grid-template-columns: auto 1fr; gap: 8px; }
.classes { display: flex; flex-direction: column; justify-content: space-around;
  font-size: 11px; line-height: 1; color: var(--soft); text-align: right; padding-bottom: 9px; }
.pixels { display: block; width: 100%; image-rendering: pixelated; }
.strip { height: 6px; border-radius: 3px; margin-top: 3px; }
.scale { display: flex; align-items: center; gap: 10px; font-size: 13px; color: var(--soft);
  margin: 0; font-variant-numeric: tabular-nums; }
.scale img { width: 180px; height: 10px; border-radius: 3px; image-rendering: auto; }
.survivor, .newcomer { width: 22px; height: 6px; border-radius: 3px; margin-left: 14px; }
.survivor { background: var(--kept); }
.newcomer { background: var(--new); }
.closeup { display: grid; grid-template-columns: max-content minmax(0, 620px); gap: 4px 8px; }
.closeup .classes { padding: 0; }
.heads { display: flex; font-size: 11px; color: var(--soft); text-align: center; }
.heads span { flex: 1; overflow: hidden; }
pre { margin: 0; overflow-x: auto; font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
@media print { body { background: none; } section, .card { break-inside: avoid; } }
"""

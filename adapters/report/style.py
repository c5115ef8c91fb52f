"""Style of the HTML page: readable in light and dark, on paper and on a telephone."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5b6575; --paper: #f6f7f9;
  --sheet: #ffffff; --line: #dfe3e9; --accent: #1a7f7c; --kept: #3b528b; --new: #d96a24;
  --old: #8b95a5; --good: #1a7f7c; --bad: #b3402a; --code: #eef1f5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebf0; --soft: #9aa5b5; --paper: #12161c;
  --sheet: #1b212a; --line: #2e3743; --accent: #35b5a9; --kept: #7d97d8; --new: #f0965a;
  --old: #7d8897; --good: #35b5a9; --bad: #ef8a6f; --code: #12161c; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); padding-bottom: 40px;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
header, main { max-width: 1180px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 40px; }
h1 { margin: 0; font-size: 30px; line-height: 1.2; letter-spacing: -0.01em; }
header p { margin: 8px 0 0; color: var(--soft); overflow-wrap: anywhere; }
section { background: var(--sheet); border: 1px solid var(--line); border-radius: 12px;
  padding: 20px 24px; margin: 20px 0; }
.full { margin-left: calc(50% - 50vw + 20px); margin-right: calc(50% - 50vw + 20px); }
h2 { margin: 0 0 8px; font-size: 19px; }
section > p { margin: 0 0 14px; color: var(--soft); max-width: 80ch; }
.lead { border-left: 6px solid var(--old); }
.lead.better { border-left-color: var(--good); }
.lead.worse { border-left-color: var(--bad); }
.lead .verdict { font-size: 21px; line-height: 1.4; color: var(--ink); max-width: 62ch;
  margin: 2px 0 18px; }
.lead h2 { margin-top: 20px; }
.lead ul { list-style: none; margin: 0; padding: 0; }
.lead li + li { margin-top: 12px; }
.lead li p, details p, .again p { margin: 0 0 6px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px; }
.card { border: 1px solid var(--line); border-radius: 10px; max-width: 460px; padding: 12px 16px;
  display: flex; flex-direction: column; }
.card .name, .card .remark { color: var(--soft); font-size: 13px; }
.card .value { font-size: 25px; font-weight: 650; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; min-width: min(100%, 40rem); font-size: 15px; }
th { text-align: left; font-weight: 600; }
thead th { color: var(--soft); font-size: 13px; border-bottom: 1px solid var(--line); }
td, th { padding: 7px 16px 7px 0; vertical-align: baseline; }
tbody tr + tr td { border-top: 1px solid var(--line); }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
a { color: inherit; }
.word { text-decoration: underline dotted; text-underline-offset: 3px; }
dl { display: grid; grid-template-columns: max-content minmax(0, 72ch); gap: 8px 24px; margin: 0;
  font-size: 15px; }
dt { font-weight: 600; scroll-margin: 20px; }
dt:target { color: var(--accent); }
dd { margin: 0; color: var(--soft); }
figure { margin: 0; }
.key { display: flex; gap: 6px 18px; flex-wrap: wrap; font-size: 13px; color: var(--soft);
  margin-bottom: 8px; }
.key i { display: inline-block; width: 11px; height: 11px; border-radius: 50%;
  background: var(--accent); margin-right: 6px; vertical-align: -1px; }
.key .old { background: none; border: 2.5px solid var(--old); }
details > summary { cursor: pointer; color: var(--soft); margin: 10px 0; }
pre { margin: 0 0 12px; padding: 10px 14px; border-radius: 8px; background: var(--code);
  white-space: pre-wrap; overflow-wrap: break-word;
  font: 14px/1.5 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; }
pre span { white-space: nowrap; }
@media (max-width: 640px) {
  header, main { padding: 0 12px; }
  header { padding-top: 24px; }
  h1 { font-size: 25px; }
  section { padding: 16px 14px; margin: 14px 0; border-radius: 10px; }
  .full { margin-left: 0; margin-right: 0; }
  .lead .verdict { font-size: 18px; }
  .cards { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px; }
  .card { padding: 10px 12px; overflow-wrap: anywhere; }
  .card .value { font-size: 20px; }
  .card:last-child:nth-child(odd) { grid-column: 1 / -1; }
  .wide table { font-size: 14px; }
  td, th { padding-right: 12px; }
  .wide td:first-child, .wide th:first-child { position: sticky; left: 0; min-width: 28vw;
    overflow-wrap: anywhere; background: var(--sheet); }
  dl { display: block; }
  dd { margin-bottom: 10px; }
}
@media print { body { background: none; } section, .card { break-inside: avoid; } }
"""

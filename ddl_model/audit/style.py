"""The report's style sheet: light and dark, and as wide as the window."""

STYLE = """
:root{color-scheme:light dark;--ink:#1d2430;--paper:#fff;--line:#cbd2dc;--soft:#5a6472;
--r0:#2166ac;--r1:#92c5de;--r2:#b8bec8;--r3:#b2182b;--band:#7aa6cf;--tick:#0b3c6f}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ef;--paper:#14181f;--line:#3a4350;--soft:#a3adba;
--r0:#4393c3;--r1:#92c5de;--r2:#6b7480;--r3:#d6604d;--band:#41688f;--tick:#cfe3f7}}
body{margin:0;font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper)}
main{max-width:60rem;margin:0 auto;padding:1rem}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem;border-bottom:1px solid var(--line)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600}
svg{display:block;max-width:100%;height:auto;margin:.75rem 0}text{fill:var(--ink);font:11px system-ui,sans-serif}
figure{margin:1rem 0}figcaption,summary{font-weight:600}
.r0{fill:var(--r0)}.r1{fill:var(--r1)}.r2{fill:var(--r2)}.r3{fill:var(--r3)}
.band{fill:var(--band)}.tick{fill:var(--tick)}.grid{stroke:var(--line)}
.seed{fill:none;stroke:var(--band);stroke-width:1.5}
""".replace("\n", "")

"""The picture of the comparison: records per second and p50, grouped bars on log scales.
An SVG that follows the reader's light or dark mode, by gnuplot."""

import math
import os
import re
import subprocess

from processes import Failed
from report import cells
from systems import KEYED, LOADS, SYSTEMS

# One colour for each system, apart for colour-blind eyes too, readable on white and on dark.
COLOURS = {"replog": "#d1495b", "etcd": "#3d7ea6", "nats": "#8d96a3", "redis": "#e09f3e",
           "libraft": "#5b9279", "zookeeper": "#8e6c9e"}
PAPER, INK, LINE = "#ffffff", "#24292f", "#dcdfe4"


def rgb(colour):
    """As gnuplot writes it: rgb(1, 2, 3)."""
    return f"rgb({int(colour[1:3], 16)}, {int(colour[3:5], 16)}, {int(colour[5:7], 16)})"


STYLE = f"""<style>
text {{ fill: {INK}; }}
@media (prefers-color-scheme: dark) {{
  text {{ fill: #e6edf3; }}
  rect[fill="{PAPER}"] {{ fill: #0d1117; }}
  [stroke="{rgb(LINE)}"] {{ stroke: #3d444d; }}
}}
</style>
"""
PICTURED = [load for load in LOADS if load is not KEYED]  # the keyed load has no peer


def short(value, units):
    """Three digits at most, and the unit that goes with them: units are a thousand apart."""
    for unit in units[:-1]:
        if value < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}{units[-1]}"


class Panel:
    """One of the two plots, of one figure of the results."""

    def __init__(self, key, title, units, axis, scale):
        self.key, self.title, self.units, self.axis, self.scale = key, title, units, axis, scale


RATE = Panel("records_per_s", "Records per second (log scale; more is better)", ["", "k", "M"],
             "%.0s%c", 1)
TIME = Panel("p50_us", "Time of a request, p50 (log scale; less is better)", [" us", " ms", " s"],
             "%.0s %cs", 1e-6)


def data(results, panel):
    """Width of a bar; for each system its name and bars: place, value, label."""
    found = cells(results)
    shown = [s for s in SYSTEMS if any((s.name, load.name) in found for load in PICTURED)]
    width = 0.84 / max(len(shown), 1)
    blocks = []
    for n, s in enumerate(shown):
        lines = []
        for group, load in enumerate(PICTURED):
            cell = found.get((s.name, load.name))
            if cell:
                x = group + (n - (len(shown) - 1) / 2) * width
                value = cell[panel.key]
                lines.append(f'{x:.4f} {value * panel.scale:g} "{short(value, panel.units)}"')
        title = s.title.split(" (")[0] + ("" if s.fsynced else " (not fsynced)")
        blocks.append((s, title, lines))
    return width, blocks


def lowest(results, panel):
    """Where the axis begins: below the smallest value, so that every bar shows."""
    smallest = min(c[panel.key] for c in cells(results).values())
    return 10 ** math.floor(math.log10(max(smallest, 1))) / 2 * panel.scale


def plot(results, panel, with_key):
    width, blocks = data(results, panel)
    key = panel.key
    script, parts = [], []
    for s, _, lines in blocks:
        script.append(f"${key}_{s.name} << EOD\n" + "\n".join(lines) + "\nEOD")
    for s, name, _ in blocks:
        colour = f'lc rgb "{COLOURS[s.name]}"'
        fill = "solid 1" if s.fsynced else "pattern 1"
        shown = f'title "{name}"' if with_key else "notitle"
        bars = f"${key}_{s.name} using 1:2"
        parts.append(f"{bars} with boxes fs {fill} border {colour} {colour} {shown}")
        parts.append(f'{bars}:3 with labels rotate left offset 0,0.4 font ",10" notitle')
    tics = ", ".join(f'"{load.title}" {i}' for i, load in enumerate(PICTURED))
    legend = "set key outside above horizontal left reverse Left width 1"
    script.append(f"""set title "{panel.title}"
set xtics ({tics}) scale 0
set xrange [-0.5:{len(PICTURED) - 0.5}]
set yrange [{lowest(results, panel)}:*]
set format y "{panel.axis}"
set boxwidth {width * 0.88:.4f}
{legend if with_key else "unset key"}""")
    return "\n".join(script) + "\nplot " + ", \\\n  ".join(parts) + "\n"


def draw(results, path):
    if not cells(results):
        raise Failed("nothing to draw")
    raw = path + ".raw"
    script = f"""set terminal svg size 960,760 dynamic font "sans-serif,13" background rgb "{PAPER}"
set output "{raw}"
set border 1 lc rgb "{LINE}"
set grid ytics lc rgb "{LINE}" lt 1
set logscale y
set ytics nomirror scale 0
set xtics nomirror
set offsets 0, 0, graph 0.12, 0
set multiplot layout 2,1
""" + plot(results, RATE, True) + plot(results, TIME, False) + "unset multiplot\n"
    try:
        done = subprocess.run(["gnuplot"], input=script, text=True, capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Failed(f"gnuplot: {e}") from None
    if done.returncode != 0 or not os.path.exists(raw):
        raise Failed(f"gnuplot: {done.stderr.strip()[:400]}")
    with open(raw) as f:
        svg = f.read()
    os.remove(raw)
    with open(path, "w") as f:
        f.write(re.sub(r"(<svg[^>]*>)", lambda m: m.group(1) + "\n" + STYLE, svg, count=1))

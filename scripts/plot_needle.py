#!/usr/bin/env python3
"""plot_needle.py [--rows task|depth] [-o OUTPUT] [CSV]: needle.csv of `gtq eval needle` as a heat map per cache.

Columns are lengths; rows are tasks, or depths of the fact that is asked for. A cell is the mean of what the file
has for it. Writes OUTPUT.svg and OUTPUT-dark.svg (default docs/needle), and with --png the same as PNG. Needs
matplotlib: apt-get install python3-matplotlib.
"""
import argparse
import collections
import csv
import pathlib
import statistics

import plot  # first: it chooses matplotlib's backend
import matplotlib.pyplot as plt
from matplotlib.colors import LinearSegmentedColormap

DATA = plot.ROOT / "docs" / "data" / "needle-qwen2.5-coder-1.5b.csv"
# From nothing found to everything found; both ends differ in lightness, for eyes that do not tell hues apart.
COLORS = LinearSegmentedColormap.from_list("retrieved", ["#b2182b", "#f4a582", "#f7f7d4", "#92c5de", "#2166ac"])


def read_scores(path, rows):
    """{cache: {(row, length): [score]}} in the order of the file."""
    scores = {}
    with open(path, encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            row = line["task"] if rows == "task" else f"{100 * float(line['depth']):.0f} %"
            of_cache = scores.setdefault(line["cache"], collections.defaultdict(list))
            of_cache[row, int(line["length"])].append(float(line["score"]))
    return scores


def draw_panel(axes, cache, scores, rows, lengths, theme):
    for y, row in enumerate(rows):
        for x, length in enumerate(lengths):
            found = scores.get((row, length))
            if not found:
                continue
            share = statistics.fmean(found)
            axes.add_patch(plt.Rectangle((x, y), 1, 1, facecolor=COLORS(share), edgecolor=theme.background))
            axes.text(x + 0.5, y + 0.5, f"{100 * share:.0f}", ha="center", va="center", fontsize=10,
                      color="#ffffff" if abs(share - 0.5) > 0.35 else "#1f2328")
    axes.set_title(cache, fontsize=11, color=theme.text)
    axes.set_xlim(0, len(lengths))
    axes.set_ylim(len(rows), 0)
    axes.set_xticks([x + 0.5 for x in range(len(lengths))],
                    [f"{n // 1024}K" if n % 1024 == 0 else str(n) for n in lengths])
    axes.set_yticks([y + 0.5 for y in range(len(rows))], rows)
    axes.tick_params(colors=theme.text, labelsize=10, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw(scores, theme):
    cells = [cell for of_cache in scores.values() for cell in of_cache]
    rows = list(dict.fromkeys(row for row, _ in cells))
    if rows[0].endswith("%"):
        rows.sort(key=lambda row: float(row[:-2]))
    lengths = sorted({length for _, length in cells})
    figure, panels = plt.subplots(1, len(scores), sharey=True, squeeze=False,
                                  figsize=(plot.WIDTH_INCHES, 1.0 + 0.36 * len(rows)))
    for axes, (cache, of_cache) in zip(panels[0], scores.items()):
        draw_panel(axes, cache, of_cache, rows, lengths, theme)
    figure.supxlabel("tokens of text; facts retrieved, %", fontsize=10, color=theme.text, y=0.01)
    figure.subplots_adjust(left=0.115, right=0.995, top=0.89, bottom=0.19, wspace=0.08)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=pathlib.Path, metavar="CSV", default=DATA)
    parser.add_argument("--rows", choices=("task", "depth"), default="task")
    plot.add_output_options(parser, plot.ROOT / "docs" / "needle")
    options = parser.parse_args()
    scores = read_scores(options.file, options.rows)
    plot.save(lambda theme: draw(scores, theme), options)


if __name__ == "__main__":
    main()

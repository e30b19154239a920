#!/usr/bin/env python3
"""plot.py [-o OUTPUT] [CSV ...]: true bits against mean KL divergence, one panel per file of `gtq eval kld`.

Writes OUTPUT.svg and OUTPUT-dark.svg (default docs/pareto, from the files in docs/data), and with --png the
same as PNG. Needs matplotlib: apt-get install python3-matplotlib.
"""
import argparse
import csv
import dataclasses
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402: the backend comes first
from matplotlib import ticker  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODELS = ("qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b", "smollm2-135m", "gemma3-270m")
TITLES = dict(zip(MODELS, ("Qwen2.5-Coder-1.5B", "Qwen2.5-Coder-0.5B", "SmolLM2-135M", "Gemma 3 270M")))
STOCK = ("iq4_nl", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
NAMED_STOCK = ("q4_0", "q5_0", "q8_0")  # the others lie beside these, without name and line
WIDTH_INCHES = 8.64  # 830 pixels where the reader's unit is 1/96 inch


@dataclasses.dataclass(frozen=True)
class Series:
    label: str
    marker: str
    light: str
    dark: str
    is_ours: bool = False


# The names of llama.cpp's types and of gtq's budgets stand beside their points; the rest is in the legend.
SERIES = {
    "tq-mse": Series("tq-mse (paper, simulated)", "^", "#8a8a8a", "#9a9a9a"),
    "llama.cpp": Series("llama.cpp", "s", "#8e44ad", "#c792ea"),
    "block-gtq": Series("block-gtq (paper, simulated)", "D", "#d1700b", "#f0a04b"),
    "gtq": Series("gtq", "o", "#0a5fd0", "#58a6ff", is_ours=True),
}


@dataclasses.dataclass(frozen=True)
class Theme:
    suffix: str
    text: str
    grid: str
    background: str  # of PNGs and of the halo around text; SVGs are transparent


THEMES = (Theme("", "#1f2328", "#d8dee4", "#ffffff"), Theme("-dark", "#e6edf3", "#30363d", "#0d1117"))


def series_of(cache):
    if cache in STOCK:
        return "llama.cpp"
    return next((name for name in ("tq-mse", "block-gtq") if cache.startswith(name + "-")), "gtq")


def read_points(path):
    """{series: [(true bits, mean KLD, cache)]} in order of bits, without f16, whose divergence is 0."""
    points = {name: [] for name in SERIES}
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["cache"] != "f16":
                points[series_of(row["cache"])].append(
                    (float(row["true_bits"]), float(row["mean_kld"]), row["cache"]))
    return {name: sorted(found) for name, found in points.items()}


def draw_series(axes, name, points, theme):
    series = SERIES[name]
    color = series.dark if theme.suffix else series.light
    on_line = [point for point in points if point[2] not in STOCK or point[2] in NAMED_STOCK]
    beside = [point for point in points if point not in on_line]
    axes.plot([x for x, _, _ in beside], [y for _, y, _ in beside], color=color, marker=series.marker,
              linestyle="", markersize=3)
    bits, klds, _ = zip(*on_line)
    axes.plot(bits, klds, color=color, marker=series.marker, label=series.label,
              linewidth=3 if series.is_ours else 1.4, markersize=7 if series.is_ours else 4.5,
              zorder=4 if series.is_ours else 3)
    for x, y, cache in points:
        if cache in NAMED_STOCK:
            axes.annotate(cache, (x, y), xytext=(4, 5), textcoords="offset points", color=color, fontsize=8.5,
                          rotation=40, rotation_mode="anchor")
        elif series.is_ours and "." not in cache:  # names of fractional budgets are too long for the gaps
            last = cache == points[-1][2]
            axes.annotate(cache, (x, y), xytext=(2, -7) if last else (-4, -5), textcoords="offset points",
                          color=color, fontsize=9.5, fontweight="bold", ha="center" if last else "right",
                          va="top", zorder=5)


def draw_panel(axes, title, points, theme):
    for name, found in points.items():
        if found:
            draw_series(axes, name, found, theme)
    axes.set_facecolor(theme.background)
    axes.set_title(title, fontsize=11, color=theme.text)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(1.45, 11)
    axes.set_ylim(0.001, 30)
    axes.xaxis.set_major_locator(ticker.FixedLocator([2, 3, 4, 5, 6, 8]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%d"))
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.grid(color=theme.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.text, labelsize=9.5, length=0)
    for spine in axes.spines.values():
        spine.set_color(theme.grid)


def draw(files, theme):
    columns = 2 if len(files) == 4 else min(len(files), 3)
    rows = -(-len(files) // columns)
    height = 0.9 + 2.9 * rows
    figure, grid = plt.subplots(rows, columns, sharex=True, sharey=True, squeeze=False,
                                figsize=(WIDTH_INCHES, height))
    panels = grid.flatten()
    for axes, path in zip(panels, files):
        name = path.stem.removeprefix("kld-")
        draw_panel(axes, TITLES.get(name, name), read_points(path), theme)
    for axes in panels[len(files):]:
        axes.set_visible(False)
    figure.supylabel("mean KL divergence from f16", fontsize=10, color=theme.text, x=0.01)
    figure.supxlabel("true bits per cached value (lower left is better)", fontsize=10, color=theme.text,
                     y=0.08 / height)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="upper center", bbox_to_anchor=(0.5, 1 - 0.02 / height),
                  ncol=len(SERIES), frameon=False, fontsize=10, labelcolor=theme.text, handlelength=2.2,
                  columnspacing=1.8)
    figure.subplots_adjust(left=0.085, right=0.995, top=1 - 0.65 / height, bottom=0.5 / height, wspace=0.04,
                           hspace=0.16)
    return figure


def add_output_options(parser, output):
    parser.add_argument("-o", "--output", type=pathlib.Path, default=output)
    parser.add_argument("--png", action="store_true", help="write PNGs too")


def save(draw_theme, options):
    """Writes the figure that draw_theme(theme) makes for each theme."""
    matplotlib.rcParams["svg.hashsalt"] = "gtq"  # the same input gives the same file
    for theme in THEMES:
        figure = draw_theme(theme)
        path = f"{options.output}{theme.suffix}"
        figure.savefig(f"{path}.svg", transparent=True, metadata={"Date": None})
        if options.png:
            figure.savefig(f"{path}.png", facecolor=theme.background, dpi=192)
        plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=pathlib.Path, metavar="CSV",
                        default=[ROOT / "docs" / "data" / f"kld-{model}.csv" for model in MODELS])
    add_output_options(parser, ROOT / "docs" / "pareto")
    options = parser.parse_args()
    save(lambda theme: draw(options.files, theme), options)


if __name__ == "__main__":
    main()

"""The figures of a report. matplotlib is imported when one is drawn."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLORS = {"sft": "#8a8a8a", "ppo": "#1f6fb4", "irm": "#c26a1b", "prm": "#2a8a57", "up": "#1f6fb4", "down": "#c26a1b"}
CURVES = {
    "objective/accuracy": ("accuracy", "ppo"),
    "objective/prm": ("PRM, min over steps", "prm"),
    "objective/irm": ("IRM", "irm"),
}
SMOOTHING = 0.9  # of the exponential mean over the faint raw curve


def draw_figures(folder: Path, results: Mapping[str, Any]) -> list[Path]:
    """Draw into figures/ what the run has data for; the paths of the figures."""
    target = folder / "figures"
    drawn = []
    for name, data, draw in (
        ("ppo_steps", _history(folder), _draw_history),
        ("evolution_steps", _evolution(folder), _draw_evolution),
        ("accuracy_by_difficulty", _difficulty(results), _draw_difficulty),
    ):
        if data:
            target.mkdir(parents=True, exist_ok=True)
            drawn.append(_save(target / f"{name}.png", draw, data))
    return drawn


def _save(path: Path, draw: Any, data: Any) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A Figure of its own, not pyplot: nothing global is touched, and no display is asked for.
    figure = Figure(figsize=(7.0, 4.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    draw(axes, data)
    figure.savefig(path)
    return path


def _legend(axes: Any) -> None:
    """Below the axes, where no curve or bar can run through it."""
    axes.figure.legend(frameon=False, ncols=4, loc="outside lower center")


def _whole_numbers(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def smooth(values: Sequence[float], keep: float = SMOOTHING) -> list[float]:
    """Exponential mean without the bias of its start: m_t = k m_{t-1} + (1 - k) x_t, shown as m_t / (1 - k^t).

    >>> smooth([1.0, 1.0], keep=0.5)
    [1.0, 1.0]
    """
    mean, shown = 0.0, []
    for count, value in enumerate(values, start=1):
        mean = keep * mean + (1 - keep) * value
        shown.append(mean / (1 - keep**count))
    return shown


def _history(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Metric to (optimizer step, value)."""
    path = folder / "ppo" / "trainer_state.json"
    if not path.is_file():
        return {}
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for entry in json.loads(path.read_text(encoding="utf-8"))["log_history"]:
        for name in CURVES:
            if isinstance(entry.get(name), int | float):
                curves[name].append((entry["step"], entry[name]))
    return dict(curves)


def _draw_history(axes: Any, curves: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    for name, points in curves.items():
        label, color = CURVES[name][0], COLORS[CURVES[name][1]]
        steps, values = [step for step, _ in points], [value for _, value in points]
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        axes.plot(steps, smooth(values), color=color, linewidth=1.8, label=label)
    axes.set(xlabel="PPO optimizer steps", ylabel="mean over samples", ylim=(0, 1), title="Reward factors and accuracy")
    _whole_numbers(axes)
    _legend(axes)


def _evolution(folder: Path) -> dict[str, list[tuple[int, float, int]]]:
    """Direction to (round, mean number of steps, problems), each starting at the seeds."""
    path = folder / "evolve" / "report.json"
    rows = json.loads(path.read_text(encoding="utf-8")).get("steps", []) if path.is_file() else []
    seeds = [(row["round"], row["mean_steps"], row["n"]) for row in rows if row["direction"] == "seed"]
    lines: dict[str, list[tuple[int, float, int]]] = {}
    for direction in ("up", "down"):
        found = [(row["round"], row["mean_steps"], row["n"]) for row in rows if row["direction"] == direction]
        if found:
            lines[direction] = seeds + sorted(found)
    return lines


def _draw_evolution(axes: Any, lines: Mapping[str, Sequence[tuple[int, float, int]]]) -> None:
    for direction, points in lines.items():
        rounds, means = [point[0] for point in points], [point[1] for point in points]
        axes.plot(rounds, means, marker="o", color=COLORS[direction], label=f"{direction}ward")
        for number, mean, count in points[1:]:
            side = 6 if direction == "up" else -14
            axes.annotate(f"n={count}", (number, mean), (0, side), textcoords="offset points", ha="center", fontsize=7)
    last = max(point[0] for points in lines.values() for point in points)
    top = max(point[1] for points in lines.values() for point in points)
    axes.set(xlabel="evolution round (0: seeds)", ylabel="mean number of steps", ylim=(0, 1.15 * top))
    axes.set(title="Difficulty of the kept problems by round", xticks=range(last + 1))
    _legend(axes)


def _difficulty(results: Mapping[str, Any]) -> dict[str, Any]:
    tables = {name: results[name].get("by_difficulty") for name in ("sft", "ppo") if name in results}
    return {name: rows for name, rows in tables.items() if rows}


def _draw_difficulty(axes: Any, tables: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    levels = sorted({level for rows in tables.values() for level in rows}, key=int)
    width = 0.8 / len(tables)
    for place, (name, rows) in enumerate(tables.items()):
        at = [index + (place - (len(tables) - 1) / 2) * width for index in range(len(levels))]
        heights = [rows.get(level, {}).get("pass1_greedy", 0.0) for level in levels]
        bars = axes.bar(at, heights, width=0.92 * width, color=COLORS[name], label=name.upper())
        axes.bar_label(bars, labels=[f"{100 * height:.0f}" for height in heights], fontsize=7, padding=1)
    rows = next(iter(tables.values()))
    labels = [f"{level}\nn={int(rows[level]['n'])}" if level in rows else level for level in levels]
    axes.set_xticks(range(len(levels)), labels)
    axes.set(
        xlabel="steps that the problem needs", ylabel="greedy pass@1", ylim=(0, 1.08), title="Accuracy by difficulty"
    )
    _legend(axes)

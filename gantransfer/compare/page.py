"""The page of a comparison: tables over all tasks, then of every task its table, curves, tests and samples."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from gantransfer import report
from gantransfer.report.charts import Series, line_chart
from gantransfer.report.formatting import counted, duration, number

Row = dict[str, Any]
# Colours that differ in hue and lightness, for light and dark pages; a second round of rows is dashed.
LIGHT = ("#1d5fa8", "#b4530f", "#2f7d4f", "#8a3d9c", "#a32b3a", "#6b6f00", "#0f7f8c", "#55606c")
DARK = ("#7db3f5", "#f0a468", "#7fcf9c", "#d59ae3", "#f28b95", "#cfd35a", "#67c9d6", "#aab4be")
DISTANCES = ("Fréchet distances of the best generators on the reported split, mean ± standard deviation over seeds. "
             "Bold: the smallest. Grey: not shown to differ from it, for want of seeds or of a difference (bootstrap "
             "over paired seeds, and Student's p-value of the log ratio, with a spread judged by all pairs and Holm's "
             "correction over them, 95 %). At the end: the last generators', on the split of the curves.")
SPEED = ("On the selection split, mean over seeds (smallest to largest), of factors the geometric mean. Seconds are "
         "training time alone. Differences of distances are tested as above, but corrected for the pairs asked about "
         "here alone: fewer than all, so that a difference may be called here and not in the ranking.")
FINE = 25  # iterations between evaluations, above which a best iteration is said to be known only roughly
FLOOR = "floor: real against real"


def render(result: Row, out: Path) -> str:
    """A self-contained HTML page of a comparison's `result` (see `gantransfer.compare.compare`)."""
    style = (Path(report.__file__).parent / "style.css").read_text(encoding="utf-8")
    every = result["tasks"]
    tasks = [task for task in every if any(row["curve"] or row["finished"] for row in task["rows"])] or every[:1]
    title = escape(result["title"] or _place(every[0]))
    marks = {label: _mark(i) for i, label in enumerate(_labels(tasks))}
    protocols = list(dict.fromkeys(task["protocol"] for task in tasks if task["protocol"]))
    lead = protocols[0] if len(protocols) == 1 else f"{len(tasks)} tasks; protocols below" if protocols else ""
    if len(tasks) < len(every):
        lead += f"; {len(every) - len(tasks)} of {len(every)} tasks have not begun"
    sections = [f"<h1>{title}</h1><p class='lead'>{escape(lead)}</p>"]
    if result["about"]:
        sections.append(f"<p>{escape(result['about'])}</p>")
    if len(every) > 1 or result["expected"]:
        sections.append(_overview({**result, "tasks": tasks}, marks))
    for task in tasks:
        sections.append(_task(task, {**result, "tasks": tasks}, out, marks, alone=len(every) == 1))
    sections.append(_failed(result["cells"]))
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src '
        '\'unsafe-inline\'">'
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{title}: comparison</title><style>{style}{_style()}</style><main>{''.join(sections)}</main></html>\n"
    )


def _place(task: Row) -> str:
    return f"{Path(task['source']).name} on {Path(task['data']).name}"


def _labels(tasks: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row["label"] for task in tasks for row in task["rows"]))


def _mark(i: int) -> str:
    colour = f"var(--s{i % len(LIGHT)})"
    fill = f"background:{colour}" if i < len(LIGHT) else f"border:2px dashed {colour}"
    return f"<i style='{fill}'></i>"


def _style() -> str:
    def colours(values: tuple[str, ...]) -> str:
        return ":root {" + "".join(f"--s{i}: {value};" for i, value in enumerate(values)) + "}"

    return (
        f"{colours(LIGHT)}@media screen and (prefers-color-scheme: dark) {{{colours(DARK)}}}"
        ".rows td, .rows th { padding: 6px 18px 6px 0; border-bottom: 1px solid var(--hair); }"
        ".rows td { font-variant-numeric: tabular-nums; text-align: right; white-space: nowrap; }"
        ".rows th[scope=row] { white-space: nowrap; }"
        ".rows .tied { color: var(--soft); } .rows small { color: var(--soft); }"
        ".rows th[scope=col]:not(:first-child) { text-align: right; }"
        ".sheets { display: flex; flex-wrap: wrap; gap: 32px; } .sheets img { width: auto; height: auto; }"
        ".rows i { display: inline-block; box-sizing: border-box; width: 12px; height: 12px; "
        "border-radius: 3px; margin-right: 8px; }"
    )


def _rows(head: Sequence[str], lines: Iterable[tuple[str, Sequence[str]]]) -> str:
    """A table: (row's heading, cells), all HTML."""
    top = "".join(f"<th scope='col'>{name}</th>" for name in head)
    body = "".join(f"<tr><th scope='row'>{name}</th>"
                   + "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in cells) + "</tr>"
                   for name, cells in lines)
    return f"<div class='wide'><table class='rows'><tr>{top}</tr>{body}</table></div>"


def _distance(row: Row, ranking: Sequence[Row]) -> str:
    """A table cell: distance ± spread, bold for the best, grey for what is not shown to differ from it."""
    if row["distance"] is None:
        return "<td>–</td>"
    spread = f" ± {number(row['distance_spread'])}" if row["distance_spread"] is not None else ""
    text = f"{number(row['distance'])}{spread}"
    if ranking and ranking[0]["label"] == row["label"]:
        return f"<td><b>{text}</b></td>"
    test = next((ranked["to_best"] for ranked in ranking if ranked["label"] == row["label"]), None)
    return f"<td>{text}</td>" if test and test["different"] else f"<td class='tied'>{text}</td>"


def _overview(result: Row, marks: dict[str, str]) -> str:
    tasks, expected = result["tasks"], result["expected"]
    lines = []
    for label in _labels(tasks):
        cells = []
        for task in tasks:
            row = next((row for row in task["rows"] if row["label"] == label), None)
            cell = "<td></td>" if row is None else _distance(row, task["ranking"])
            published = expected.get(label, {}).get(task["name"])
            cells.append(cell if published is None else
                         cell.replace("</td>", f"<br><small>published {escape(str(published))}</small></td>"))
        lines.append((marks[label] + escape(label), cells))
    lines.append((FLOOR, [number(task["floor"]) for task in tasks]))
    parts = [f"<section><h2>All tasks</h2><p>{DISTANCES}</p>"
             + _rows(["", *(escape(task["name"] or _place(task)) for task in tasks)], lines)]
    if result["ranking"]:
        parts.append("<h3>Ranking over tasks</h3><p>Geometric mean distance over a row's tasks; factor to the best "
                     "over the tasks and seeds that both have, with its interval over tasks. Tasks that share classes "
                     "are not independent, so read the tests with care.</p>")
        parts.append(_rows(("", "tasks", "distance", "factor to the best", "different"),
                           [_ranked(row, marks, (str(row["tasks"]),)) for row in result["ranking"]]))
    if result["pairs_over_tasks"]:
        parts.append("<h3>Convergence over tasks</h3><p>Geometric means of the factors below over tasks (smallest to "
                     "largest), and in how many runs the first row came to the second's best at all; short: tasks in "
                     "which a run ended before twice the later best, so that a later one is possible.</p>")
        parts.append(_rows(
            ("", "tasks", "short", "ratio of bests", "in seconds", "reached in", "times earlier", "in seconds"),
            [(f"{escape(p['a'])} against {escape(p['b'])}",
              [str(p["tasks"]), str(p["short"]), _spread(p["best_ratio"]), _spread(p["best_ratio_seconds"]),
               f"{p['reached']}/{p['runs']}", _spread(p["reach_ratio"]), _spread(p["reach_ratio_seconds"])])
             for p in result["pairs_over_tasks"]]))
        parts.append("<h3>Pairs over tasks</h3><p>The first row's distance over the second's, geometric mean over "
                     "tasks, and in how many it is the smaller.</p>")
        parts.append(_rows(("", "ahead in", "factor", "different"), [
            (f"{escape(p['a'])} against {escape(p['b'])}", [f"{p['ahead']}/{p['difference']['count']}",
                                                            *_said(p["difference"], "one task in common")])
            for p in result["pairs_over_tasks"] if p["difference"]]))
    return "".join(parts) + "</section>"


def _spread(entry: Row) -> str:
    """'3.1 (2.5 to 3.9)', and in how many of the cases there is a value, where not in all."""
    if entry["mean"] is None:
        return "–"
    ends = "" if entry["low"] == entry["high"] else f" ({number(entry['low'])} to {number(entry['high'])})"
    some = f", {entry['count']} of {entry['of']}" if entry["count"] < entry["of"] else ""
    return f"{number(entry['mean'])}{ends}{some}"


def _ranked(row: Row, marks: dict[str, str], more: Sequence[str] = ()) -> tuple[str, list[str]]:
    said = _said(row["to_best"], "one task in common" if more else "one seed in common") if row["to_best"] else ["", ""]
    return marks[row["label"]] + escape(row["label"]), [*more, number(row["mean"]), *said]


def _said(test: Row, alone: str) -> list[str]:
    """A test's value with its interval, and what it says; `alone`: of a single unit."""
    interval = "" if test["low"] is None else f" ({number(test['low'])} to {number(test['high'])})"
    different, pairs = "yes" if test["different"] else "not distinguishable", counted(test["of"], "pair", "pairs")
    said = alone if test["count"] < 2 else f"{different}, p {number(test['p'])} among {pairs}"
    return [f"{number(test['mean'])}{interval}", said]


def _task(task: Row, result: Row, out: Path, marks: dict[str, str], alone: bool) -> str:
    order = _labels(result["tasks"])
    series = [Series(row["label"], [(p["step"], p["distance"]) for p in row["curve"]],
                     f"s{order.index(row['label']) % len(LIGHT)}", dashed=order.index(row["label"]) >= len(LIGHT))
              for row in task["rows"]]
    rules = [] if task["selection_floor"] is None else [("floor", task["selection_floor"])]
    chart = line_chart(series, title="Distance over iterations", height=460, rules=rules)
    head = "Result" if alone else f"{escape(task['name'])}: {escape(_place(task))}"
    options = ", ".join(f"{k} {v}" for k, v in task["data_options"].items())
    facts = "; ".join(filter(None, (escape(options), escape(task["protocol"]) if not alone else "",
                                    f"reference: {escape(str(task['reference']))}" if task["reference"] else "")))
    notes = "".join(f"<li>{escape(warning)}</li>" for warning in task["warnings"])
    parts = [f"<section><h2>{head}</h2><p>{facts}</p>", f"<ul>{notes}</ul>" if notes else "",
             f"<p>{DISTANCES}</p>" if alone else "", _table(task, marks)]
    tests = [_ranked(row, marks) for row in task["ranking"] if row["to_best"]]
    if any(row["to_best"]["count"] > 1 for row in task["ranking"] if row["to_best"]):
        parts.append("<h3>Differences to the best</h3>"
                     + _rows(("", "distance", "difference (95 %)", "different"), tests))
    if chart:
        parts.append(f"<h3>Convergence</h3><p>Distance on the selection split, mean over seeds.</p>{chart}")
    if task["pairs"]:
        coarse = task["every"] is not None and task["every"] > FINE
        rough = f" Evaluated every {task['every']} iterations: no iteration is known better than to that." * coarse
        parts.append(f"<p>{SPEED}{rough}</p>" + _pairs(task["pairs"]))
    parts.append(f"<h3>Samples</h3>{_grids(task, result['cells'], out)}</section>")
    return "".join(parts)


def _table(task: Row, marks: dict[str, str]) -> str:
    lines = []
    for row in task["rows"]:
        cells = [f"{row['finished']}/{row['seeds']}", number(row["before"]), _distance(row, task["ranking"]),
                 _with_range(row["best_step"], row["best_step_range"]), number(row["last"]), duration(row["seconds"])]
        lines.append((marks[row["label"]] + escape(row["label"]), cells))
    lines.append((FLOOR, ["", "", number(task["floor"]), "", number(task["selection_floor"]), ""]))
    return _rows(("", "runs", "before", "distance", "best at iteration", "at the end", "time"), lines)


def _with_range(value: Any, ends: Any) -> str:
    if value is None:
        return "–"
    return f"{number(value)}" if not ends or ends[0] == ends[1] else f"{number(value)} ({ends[0]} to {ends[1]})"


def _pairs(pairs: Sequence[Row]) -> str:
    """One table per pair: what, in iterations, in seconds."""
    tables = []
    for pair in pairs:
        a, b, reach = escape(pair["a"]), escape(pair["b"]), pair["reach_step"]
        never = f", never in {reach['of'] - reach['count']} of {reach['of']}" if reach["count"] < reach["of"] else ""

        def both(name: str, pair: Row = pair) -> list[str]:
            return [_spread(pair[name]), _spread(pair[f"{name}_seconds"])]

        lines = [
            (f"{a}: best", [_spread(pair["a_best_step"]), _spread(pair["a_best_seconds"])]),
            (f"{b}: best", [_spread(pair["b_best_step"]), _spread(pair["b_best_seconds"])]),
            ("their ratio (the paper's measure)", both("best_ratio")),
            (f"{a} first as good as {b}'s best{never}",
             [_spread(reach), _spread(pair["reach_seconds"])] if reach["count"] else ["never", "never"]),
            (f"which is earlier than {b} by a factor of", both("reach_ratio")),
            (f"distance of {b} at {a}'s best (early)", both("b_early")),
        ]
        for level, points in pair["levels"].items():
            lines += [(f"{name} first at {number(float(level))}",
                       [_spread(points[key]), _spread(points[f"{key}_seconds"])]) for name, key in ((a, "a"), (b, "b"))]
        names = {"a": pair["a"], "b": pair["b"]}
        short = ", ".join(escape(names[key]) for key in pair["short"])
        note = f"<p>Runs of {short} ended before twice the later best, so a later one is possible.</p>" if short else ""
        seeds = f"{pair['seeds']} seeds" if pair["seeds"] > 1 else "one seed"
        value, said = _said(pair["difference"], "one seed cannot say") if pair["difference"] else ("", "")
        apart = f"<p>Distance of {a} less that of {b}: {value}; different: {said}.</p>" if value else ""
        tables.append(f"<h4>{a} against {b}, {seeds}</h4>{apart}{_rows(('', 'iterations', 'seconds'), lines)}{note}")
    return "".join(tables)


def _failed(cells: Sequence[Row]) -> str:
    open_ones = [c for c in cells if c["status"] != "finished"]
    begun = [c for c in open_ones if c["begun"] or c["status"] != "waiting"]
    lines = [f"<li>{escape(c['name'])} {c['status']}: {escape(c['error'])}</li>" for c in begun]
    if len(begun) < len(open_ones):
        lines.append(f"<li>{len(open_ones) - len(begun)} of {len(cells)} runs have not begun</li>")
    return f"<section><h2>Not finished</h2><ul>{''.join(lines)}</ul></section>" if lines else ""


def _grids(task: Row, cells: Sequence[Row], out: Path) -> str:
    """Every finished run's samples: the first seed of each row open, the others folded away."""
    done = [c for c in cells if c["task"] == task["name"] and c["status"] == "finished"]
    first, others = [], []
    for row in task["rows"]:
        for i, cell in enumerate(c for c in done if c["label"] == row["label"]):
            name = f"{row['label']}, seed {cell['seed']}, distance {number(cell['distance'])}"
            (others if i else first).append(_picture(out / cell["name"] / "samples" / "after.png", name))
    if not any(first):
        return "<p>No run is finished yet.</p>"
    first.append(_picture(out / done[0]["name"] / "samples" / "real.png", "training images"))
    more = f"<details><summary>Other seeds</summary><div class='sheets'>{''.join(others)}</div></details>"
    return f"<div class='sheets'>{''.join(first)}</div>{more if any(others) else ''}"


def _picture(path: Path, name: str) -> str:
    if not path.is_file():
        return ""
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    return (f"<figure><figcaption><b>{escape(name)}</b></figcaption>"
            f"<img alt='{escape(name)}' src='data:image/png;base64,{content}'></figure>")

"""Which quantities of a run become which charts."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from gantransfer.report.charts import Series, line_chart
from gantransfer.report.formatting import finite, number
from gantransfer.report.names import metric_name, metric_order
from gantransfer.report.reading import Row, as_rows

BOOKKEEPING = {"step", "nimg", "seconds", "split", "best", "protocol", "seed", "n_real", "n_fake", "skipped"}
LOSSES = "Adversarial: their level alone says little about quality."
ANSWERS = "Mean logits. A gap that keeps growing means D is learning the training images by heart."
SMALL = {"width": 340, "height": 200}


def points(rows: list[Row], key: str) -> list[tuple[float, float]]:
    """(step, value) where both are recorded and finite."""
    return [(r["step"], r[key]) for r in rows if finite(r.get("step")) and finite(r.get(key))]


def headline_metric(evaluations: list[Row]) -> str | None:
    """The distance that selects the best step: frechet where recorded, else the first number in the rows."""
    keys = [k for r in evaluations for k, v in r.items() if k not in BOOKKEEPING and finite(v)]
    return "frechet" if "frechet" in keys else next(iter(keys), None)


def best_row(evaluations: list[Row], result: Row) -> Row | None:
    """The evaluation of the kept generator: the result's best step, else the last row marked best."""
    marked = [r for r in evaluations if r.get("best") is True and finite(r.get("step"))]
    named = [r for r in evaluations if finite(r.get("step")) and r.get("step") == result.get("best_step")]
    return (named or marked or [None])[-1]


def shown_at(rows: list[Row]) -> Callable[[float], float] | None:
    """Iterations to images shown to D, a straight line through the last record; None if not recorded."""
    last = max(
        (r for r in rows if finite(r.get("nimg")) and finite(r.get("step"))),
        key=lambda r: r["step"],
        default=None,
    )
    if last is None or last["step"] <= 0:
        return None
    rate = last["nimg"] / last["step"]
    return lambda step: rate * step


def distance_chart(evaluations: list[Row], stats: list[Row], result: Row, floor: Any) -> dict[str, Any] | None:
    """The chart of the selecting distance, with the best step and the floor, and its values as a table."""
    key = headline_metric(evaluations)
    if key is None:
        return None
    recorded = next((r["floor"] for r in reversed(evaluations) if r.get("floor") is not None), None)
    same_split = recorded.get(key) if isinstance(recorded, dict) else recorded
    floor = same_split if finite(same_split) else floor
    line = points(evaluations, key)
    tips = [f"step {number(x)}: {number(y)}" for x, y in sorted(line)]
    best = best_row(evaluations, result)
    mark = None
    if best is not None and finite(best.get(key)):
        mark = (best["step"], best[key], f"best {number(best[key])} at step {number(best['step'])}")
    rules = [(f"floor {number(floor)}", floor)] if finite(floor) else []
    name = metric_name(key)
    chart = line_chart(
        [Series("", line, "a", tips)],
        title=f"{name} over iterations",
        rules=rules,
        best=mark,
        images=shown_at(evaluations + stats),
    )
    table = [
        {
            "step": number(r.get("step")),
            "nimg": number(r.get("nimg")),
            "value": number(r.get(key)),
            "best": r is best,
        }
        for r in evaluations
    ]
    protocol = next((r["protocol"] for r in evaluations if r.get("protocol")), None)
    own = finite(same_split)
    return {
        "name": name,
        "chart": chart,
        "table": table,
        "protocol": protocol,
        "floor": bool(rules),
        "own_floor": own,
    }


def small_charts(evaluations: list[Row], stats: list[Row]) -> list[dict[str, str]]:
    """Losses, logits, speed, then every other recorded metric and training quantity."""
    keys = {k for r in stats for k in r}
    logits = ("D/logits_real", "D/logits_fake") if "D/logits_real" in keys else ("D/real", "D/fake")
    loss_d = points(stats, "D/loss")
    if not loss_d and "D/logits_real" in keys:  # then D/real and D/fake are the two terms of the loss
        fake = dict(points(stats, "D/fake"))
        loss_d = [(step, value + fake[step]) for step, value in points(stats, "D/real") if step in fake]
    loss_g = "G/loss" if "G/loss" in keys else "G/adversarial"
    answers = [Series("real", points(stats, logits[0]), "a"), Series("fake", points(stats, logits[1]), "b")]
    charts = [
        ("Losses", LOSSES, [Series("D", loss_d, "a"), Series("G", points(stats, loss_g), "b")]),
        ("Critic's answers", ANSWERS, answers),
        ("Speed", "Images per second.", [Series("", points(stats, "images_per_second"), "c")]),
    ]
    used = BOOKKEEPING | {headline_metric(evaluations), *logits, loss_g}
    used |= {"D/loss", "D/real", "D/fake", "images_per_second"}
    for key in metric_order({k for r in evaluations for k in r} - used - {"floor"}):
        charts.append((metric_name(key), "Selection split.", [Series("", points(evaluations, key), "a")]))
    for key in sorted(key for key in keys - used if not re.fullmatch(r"\w+/(p|won)\d+", key)):  # drawn together
        charts.append((key, "", [Series("", points(stats, key), "c")]))
    drawn = [
        {"title": title, "note": note, "chart": line_chart(series, title=f"{title} over iterations", **SMALL)}
        for title, note, series in charts
    ]
    return [c for c in drawn if c["chart"]]


def floor_of(result: Row) -> Any:
    """The real-against-real value of the headline metric in the result."""
    rows = [r for r in as_rows(result.get("rows")) if r.get("metric") == "frechet"]
    return rows[0].get("floor") if rows else None

"""What each new class borrows from the source classes (cGANTransfer, eq. 5 and Figs. 8, 9 and 11 of the paper).

For every class-conditional norm layer the scale and the shift of a new class are a weighted sum of the old
classes' scales and shifts. Recorded are the effective weights ("scores"), which may be negative.
"""

from __future__ import annotations

from typing import Any

from gantransfer.report.formatting import finite, percent, signed
from gantransfer.report.heatmap import heatmap
from gantransfer.report.pictures import cut, shown_px, style
from gantransfer.report.reading import RunFiles, as_dict, as_list

KINDS = ("scale", "shift")
TOP = 4  # contributors named per layer and kind
TOP_FIRST = 3  # of the first layer, beside the class's name (the paper shows three)
MOST_COLUMNS = 100  # source classes in the heat map: the strongest, when there are more
MOST_CLASSES = 40
MOST_ROWS = 12  # classes shown layer by layer
MOST_PSEUDO = 14  # pseudo-classes shown: those that are used most


def borrowed(run: RunFiles) -> dict[str, Any] | None:
    """Everything the section shows, or None where the run has no analysis."""
    record = run.json("analysis/contributions.json")
    scores = as_dict(record.get("scores"))
    layers, classes, sources = (
        [str(x) for x in as_list(record.get(k))] for k in ("layers", "classes", "source_classes")
    )
    shape = (len(layers), len(classes), len(sources))
    kinds = [kind for kind in KINDS if 0 not in shape and _fits(scores.get(kind), shape)]
    if not kinds:
        if record:
            run.notes.append("analysis/contributions.json does not have the expected layout and is not shown.")
        return None
    asked = record.get("top")  # of `gantransfer explain`
    top, top_first = (asked, asked) if isinstance(asked, int) and asked > 0 else (TOP, TOP_FIRST)
    rows = [
        {
            "name": name,
            "first": {kind: _top(scores[kind][0][c], sources, top_first)["items"] for kind in kinds},
            "layers": [
                {"name": layer, "kinds": [_top(scores[kind][i][c], sources, top) for kind in kinds]}
                for i, layer in enumerate(layers)
            ],
        }
        for c, name in enumerate(classes[:MOST_CLASSES])
    ]
    used = {
        item["index"] for row in rows for layer in row["layers"] for kind in layer["kinds"] for item in kind["items"]
    }
    pictures, edge = _pictures(run, len(sources), used)
    shared = sorted(used, key=lambda i: -_use(scores, kinds, i))[:MOST_PSEUDO]
    pseudo, _ = _pictures(run, len(sources), set(shared), "analysis/pseudo_classes.png")
    return {
        "kinds": kinds,
        "rows": rows,
        "first_layer": layers[0],
        "total": len(scores[kinds[0]][0]),
        "sources": len(sources),
        "pictures": pictures,
        "edge": edge,
        "shown": shown_px(edge, 32) if edge else 0,
        "style": style(edge) if edge else "",
        "pseudo": [{"name": sources[i], "source": pictures[i], "uri": pseudo[i]} for i in shared
                   if i in pictures and i in pseudo],
        "by_layer": _by_layer(run, layers, classes),
        "maps": [(kind, _heatmap(scores[kind], kind, layers, sources)) for kind in kinds],
        "most_columns": MOST_COLUMNS if len(sources) > MOST_COLUMNS else None,
    }


def _fits(scores: Any, shape: tuple[int, int, int]) -> bool:
    """Whether `scores` is [layer][class][source] with numbers in it; only the first classes may be named."""
    layers, classes, sources = shape
    return len(as_list(scores)) == layers and all(
        len(as_list(layer)) >= classes
        and all(len(as_list(row)) == sources and all(finite(v) for v in row) for row in layer)
        for layer in scores
    )


def _top(scores: list[float], sources: list[str], top: int) -> dict[str, Any]:
    """The `top` strongest contributors by size of score, what they carry of the whole, and how many classes count.

    The number that counts is (sum |s|)^2 / sum s^2: 1 when one class carries all, N when all N carry as much.
    """
    sizes = [abs(s) for s in scores]
    total, squares = sum(sizes), sum(s * s for s in sizes)
    order = sorted(range(len(scores)), key=lambda i: -sizes[i])[:top]
    largest = sizes[order[0]] or 1
    return {
        "items": [
            {
                "index": i,
                "name": sources[i],
                "score": signed(scores[i]),
                "negative": scores[i] < 0,
                "bar": round(100 * sizes[i] / largest),
            }
            for i in order
        ],
        "carried": percent(sum(sizes[i] for i in order), total),
        "counting": round(total * total / squares) if squares else 0,
    }


def _use(scores: dict[str, Any], kinds: list[str], source: int) -> float:
    """How much all new classes and layers take of a source class."""
    return sum(abs(row[source]) for kind in kinds for layer in scores[kind] for row in layer)


def _by_layer(run: RunFiles, layers: list[str], classes: list[str]) -> list[dict[str, Any]]:
    """One row per class: its picture with the first layer's scores everywhere, then layer by layer its own."""
    sheet = run.picture("analysis/layers.png")
    cells = [] if sheet is None else cut(sheet, len(layers), len(classes))
    if sheet is not None and not cells:
        run.notes.append("analysis/layers.png does not have the expected size and is not shown.")
    return [{"name": name, "uris": [run.uri(cell) for cell in row]}
            for name, row in zip(classes[:MOST_ROWS], cells, strict=False)]


def _pictures(
    run: RunFiles, count: int, used: set[int], name: str = "analysis/source_classes.png"
) -> tuple[dict[int, str], int]:
    """Data URIs of the classes that are shown, by index, and the edge of one in px (0: none)."""
    sheet = run.picture(name)
    if sheet is None:
        return {}, 0
    columns = min(10, count)
    cells = cut(sheet, 10, -(-count // 10)) or cut(sheet, columns, -(-count // columns))
    flat = [cell for row in cells for cell in row]
    if len(flat) < count:
        run.notes.append(f"{name} does not have the expected size and is not shown.")
        return {}, 0
    return {i: run.uri(flat[i]) for i in sorted(used)}, flat[0].width


def _heatmap(scores: list[list[list[float]]], kind: str, layers: list[str], sources: list[str]) -> str:
    """Mean size of the score over the new classes, layers x source classes."""
    means = [[sum(abs(row[s]) for row in layer) / len(layer) for s in range(len(sources))] for layer in scores]
    columns = list(range(len(sources)))
    if len(columns) > MOST_COLUMNS:
        strongest = sorted(columns, key=lambda s: -sum(row[s] for row in means))
        columns = sorted(strongest[:MOST_COLUMNS])
    title = f"Mean size of the {kind} scores: {len(layers)} layers by {len(columns)} source classes"
    return heatmap([[row[s] for s in columns] for row in means], layers, [sources[s] for s in columns], title=title)

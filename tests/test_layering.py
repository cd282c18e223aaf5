"""Imports go one way (DESIGN.md section 4), held by reading every file's syntax tree.

A new file inside a folder of the table (a method, a network, a metric, ...) needs no change here; a new file beside
them is added to its layer.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import gantransfer

ROOT = Path(gantransfer.__file__).parent

# Modules and folders of each layer, and what they may import besides `errors` and their own layer: layers or modules.
LAYERS: dict[str, tuple[set[str], set[str]]] = {
    "errors": ({"errors"}, set()),
    "settings": (
        {"config", "registry", "plan", "schedule", "order", "interrupts", "shipped", "weights", "runlog", "alarms",
         "kept_memory"},
        set()),
    "parts": ({"layers", "saved_maps", "minimal", "attention", "norm", "losses", "matching", "modulation",
               "filter_modulation", "stylehead", "augment", "ada", "supersamples", "proportions", "observing",
               "routing", "scale_shift", "latents", "classifier"},
              {"plan"}),
    "images": ({"data", "decoding", "imagefiles", "layout", "scan", "fontfaces", "glyph100"}, {"order", "shipped"}),
    "features": ({"features", "glyph_cnn", "random_conv", "inception", "vgg", "perceptual"},
                 {"registry", "weights", "shipped"}),
    "networks": ({"networks"}, {"layers", "saved_maps", "minimal", "attention", "norm", "registry", "stylehead",
                               "routing", "latents", "classifier"}),
    "sources": ({"sources", "dialects", "sampling"},
                {"settings", "networks", "modulation", "filter_modulation", "layers"}),
    "methods": ({"methods", "extension", "fine_tuning", "steering"}, {
        "plan", "losses", "matching", "modulation", "filter_modulation", "layers", "norm", "registry",
        "supersamples", "proportions", "scale_shift", "latents", "perceptual", "augment", "weights"}),
    "training": ({"trainer", "checkpoint", "processes", "adapter"},
                 {"settings", "images", "augment", "modulation", "sources"}),
    "measuring": ({"metrics", "nearest", "pictures"},
                  {"images", "features", "sampling", "registry", "weights", "kept_memory"}),
    "report": ({"report"}, set()),
    "api": ({"api", "results", "runs", "finish", "explanation", "filter_analysis", "style_mixing", "defaults",
             "compare", "doctor", "choosing",
             "trained_measures", "preference"}, {
        "settings", "parts", "images", "features", "sources", "methods", "training", "measuring", "report",
        "networks",
    }),
    "cli": ({"cli", "__main__"}, {
        "settings", "parts", "images", "features", "sources", "methods", "training", "measuring", "report",
        "networks", "api",
    }),
}

# `import gantransfer` and all it offers must work with these alone; everything else is imported where it is used.
INSTALLED_WITH_THE_LIBRARY = {"torch", "numpy", "PIL", "safetensors"}
LATE = ("rich", "jinja2", "yaml", "jsonargparse", "accelerate", "huggingface_hub", "transformers", "datasets",
        "matplotlib", "tensorboard", "wandb", "torchvision", "scipy", "sklearn", "submitit")


def _modules() -> dict[str, Path]:
    """Every module of the package by dotted name below it; a folder's __init__ has the folder's name."""
    found = {}
    for file in sorted(ROOT.rglob("*.py")):
        parts = list(file.relative_to(ROOT).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = file
    return found


MODULES = _modules()


def _imported(tree: ast.AST) -> set[str]:
    """Absolute dotted names that the statements below `tree` import."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {n if _ours(n) in MODULES else str(node.module) for n in full}
    return names


def _ours(name: str) -> str:
    return name.removeprefix("gantransfer.") if name.startswith("gantransfer.") else "?"


def _tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def _at_import(tree: ast.Module) -> set[str]:
    """Names imported when the module is: not those inside functions, nor those for type checkers alone."""
    class Outside(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if ast.unparse(node.test) == "TYPE_CHECKING" else node

    return _imported(Outside().visit(tree))


def _layer(module: str) -> str:
    top = module.split(".")[0]
    found = [layer for layer, (members, _) in LAYERS.items() if top in members]
    assert len(found) == 1, f"module '{module}' belongs to {found or 'no layer'}: give it one in LAYERS"
    return found[0]


OWN = [name for name in MODULES if name]


@pytest.mark.parametrize("module", OWN)
def test_a_module_imports_only_what_its_layer_may(module: str) -> None:
    layer = _layer(module)
    allowed = LAYERS[layer][1] | {layer, "errors"}
    for name in _imported(_tree(module)):
        if not name.startswith("gantransfer"):
            continue
        if name == "gantransfer":  # for the version
            continue
        top = _ours(name).split(".")[0]
        assert top in allowed or _layer(top) in allowed, f"{module} ({layer}) imports {name}"


def test_the_table_names_only_what_exists() -> None:
    tops = {name.split(".")[0] for name in OWN}
    assert {m for members, _ in LAYERS.values() for m in members} == tops


def test_nothing_imports_the_command_line() -> None:
    for module in OWN:
        if _layer(module) != "cli":
            assert not any(_ours(n).split(".")[0] == "cli" for n in _imported(_tree(module))), module


def test_methods_know_no_network_and_no_other_method() -> None:
    for module in OWN:
        names = {_ours(n) for n in _imported(_tree(module))}
        if module.startswith("methods."):
            assert not any(n.startswith(("networks", "methods")) for n in names), module
        if module.startswith("networks."):
            assert not any(n.startswith("networks") for n in names), module
        if "dialects" not in module and not module.startswith("networks"):  # conversion builds one kind of network
            assert not any(n.startswith("networks.") for n in names), module
        if module != "methods":
            assert not any(n.startswith("methods.") for n in names), module


def test_only_the_adapter_knows_sources_in_training() -> None:
    for module in ("trainer", "checkpoint", "processes"):
        tops = {_ours(n).split(".")[0] for n in _imported(_tree(module))}
        assert not {"sources", "dialects", "methods", "networks"} & tops


def test_the_trainer_names_no_method() -> None:
    from gantransfer.registry import methods

    importlib.import_module("gantransfer.methods")
    for module in ("trainer", "checkpoint", "processes", "schedule", "adapter"):
        words = {n.value for n in ast.walk(_tree(module)) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        assert not words & set(methods), module


@pytest.mark.parametrize("module", OWN)
def test_other_packages_are_imported_where_they_are_used(module: str) -> None:
    foreign = {n.split(".")[0] for n in _at_import(_tree(module)) if not n.startswith("gantransfer")}
    allowed = INSTALLED_WITH_THE_LIBRARY if _layer(module) != "report" else {"PIL"}
    assert not {n for n in foreign if n not in sys.stdlib_module_names} - allowed, module
    if module in ("errors", "registry", "config", "order", "interrupts", "runlog", "shipped"):
        assert "torch" not in foreign


def test_the_report_needs_no_torch() -> None:
    for module in OWN:
        if _layer(module) == "report":
            foreign = {n.split(".")[0] for n in _imported(_tree(module))} - set(sys.stdlib_module_names)
            assert foreign <= {"gantransfer", "PIL", "jinja2", "yaml"}, module


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {m: {_ours(n) for n in _at_import(_tree(m))} & set(OWN) for m in OWN}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for other in graph[module]:
                visit(other, (*path, module))
            done.add(module)

    for module in OWN:
        visit(module, ())


SCRIPT = """
import sys
import gantransfer
assert "torch" not in sys.modules  # the command line answers --help without it
before = set(sys.modules)
import torch, numpy, PIL.Image, safetensors.torch
theirs = set(sys.modules)
for name in gantransfer.__all__:
    getattr(gantransfer, name)
new = {m.split(".")[0] for m in set(sys.modules) - theirs}
print(*sorted(new - set(sys.stdlib_module_names)))
print(*[m for m in sys.argv[1].split(",") if m in sys.modules])
"""


def test_importing_the_library_imports_nothing_more() -> None:
    found = subprocess.run([sys.executable, "-c", SCRIPT, ",".join(LATE)], capture_output=True, text=True, check=True)
    extra, late = found.stdout.split("\n")[:2]
    assert set(extra.split()) <= {"gantransfer", *INSTALLED_WITH_THE_LIBRARY}
    assert late == ""


def test_reading_a_report_imports_no_torch() -> None:
    code = "import sys; from gantransfer.report import write_report; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_public_names_are_there_and_hide_no_module() -> None:
    assert not set(gantransfer.__all__) & {name.split(".")[0] for name in OWN}
    contract = {"GAN", "convert", "adapt", "resume", "extend", "merge", "evaluate", "rank_sources", "register_method",
                "register_architecture", "register_metric", "register_features"}
    assert contract <= set(gantransfer.__all__) <= set(dir(gantransfer))
    assert all(getattr(gantransfer, name) is not None for name in gantransfer.__all__)
    with pytest.raises(AttributeError, match="no attribute 'adopt'"):
        _ = gantransfer.adopt

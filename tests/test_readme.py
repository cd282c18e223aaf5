"""Everything README.md shows works: its commands run here in order, with few steps, in an empty folder.

What cannot run is named in `EXCUSED`, with the reason. Files that the README merely assumes (a user's own images)
are made in `furnish`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny

from gantransfer import api
from gantransfer.cli import main
from gantransfer.cli.verbs import BY_NAME
from gantransfer.sources import shipped_models

README = Path(__file__).resolve().parents[1] / "README.md"
SHELLS = ("bash", "sh", "shell", "console")
STEPS, SAMPLES = "3", "64"
# A command that begins so is not run, because ...
EXCUSED = (
    (r"make\b", "sets up an environment; .ci/run does it"),
    (r"(python3? -m venv|(\./?)?\.?venv/bin/|source |\. |pip install|python3? -m pip)", "installs; .ci/run does it"),
    (r"(git clone|cd )", "gets the sources, which are here"),
    (r"(sudo )?apt(-get)? ", "installs font packages"),
    (r"gantransfer data glyph100", "needs dozens of font packages; test_glyph100.py builds a part of it"),
    (r"gantransfer evaluate\b.*glyph100", "needs the benchmark, which is built from dozens of font packages"),
    (r"gantransfer pretrain\b.*glyph100", "hours of pre-training on a set built from font packages"),
    (r"gantransfer .*(inception|dinov2|clip):", "needs weights that are downloaded by hand"),
    (r"gantransfer convert\b", "needs another code base's checkpoint; test_cli_verbs.py converts one"),
    (r"(torchrun|accelerate launch)\b", "several processes; test_trainer.py runs two"),
    (r"python3? (recipes|benchmarks)/", "recipes take minutes to hours, see their own records"),
    (r"gantransfer compare\b.*(recipes|benchmarks)/", "hours of runs, see the recorded results"),
)
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.M | re.S)


def blocks() -> list[tuple[str, str]]:
    """(language, content) of every fenced block, in order."""
    return BLOCK.findall(README.read_text(encoding="utf-8")) if README.is_file() else []


def commands(block: str) -> list[str]:
    """The commands of a shell block, one per entry: continued lines joined, comments and prompts dropped."""
    lines = re.sub(r"\\\n\s*", "", block).splitlines()
    words = (re.sub(r"(^|\s)#.*", "", line).strip().removeprefix("$ ") for line in lines)
    return [line for line in words if line]


def inline() -> list[str]:
    """The commands in code spans of the text and the tables, each once."""
    text = BLOCK.sub("", README.read_text(encoding="utf-8")) if README.is_file() else ""
    spans = re.findall(r"`([^`\n]+)`", text)
    return list(dict.fromkeys(s for s in spans if re.match(r"(gantransfer|make|python3?|pip|torchrun) \S", s)))


def excuse(command: str) -> str | None:
    """Why `command` is not run, or None."""
    return next((reason for pattern, reason in EXCUSED if re.match(pattern, command)), None)


def shortened(command: str) -> list[str]:
    """The words of a ``gantransfer`` command with few steps, samples and frames."""
    words = shlex.split(command)[1:]
    verb = next(BY_NAME[name] for name in (" ".join(words[:2]), words[0]) if name in BY_NAME)
    names = {flag.name for flag in verb.flags}
    for name, value in (("steps", STEPS), ("n_fake", SAMPLES), ("frames", STEPS),
                        ("probe", STEPS)):
        option = f"--{name.replace('_', '-')}"
        given = [i for i, word in enumerate(words) if word.replace("_", "-") == option]
        for i in given:
            words[i + 1] = value
        if name in names and not given and verb.name != "sample" and name != "probe":
            words += [option, value]
    return words


def furnish(folder: Path) -> None:
    """What the README takes for granted: the reader's own images."""
    for name in ("my-images", "my-digits", "photos"):
        tiny.write_images(folder / name, {"ant": 12, "bee": 12, "cat": 12})
    tiny.write_images(folder / "faces", {"": 24})
    (folder / "runs").mkdir()


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Python examples train for few steps too."""
    for name in ("adapt", "pretrain"):
        whole = getattr(api, name)

        def short(*args: Any, whole: Any = whole, **settings: Any) -> Any:
            return whole(*args, **{**settings, "steps": int(STEPS), "n_fake": int(SAMPLES)})

        monkeypatch.setattr(api, name, short)
    yield


def run_shell(block: str) -> list[str]:
    """Run the commands of a block; the ones that failed, each with its exit code."""
    failed = []
    for command in commands(block):
        if excuse(command) is None:
            code = main(shortened(command)) if command.startswith("gantransfer ") else "not run, and not excused"
            if code != 0:
                failed.append(f"{command}: {code}")
    return failed


def test_every_command_is_run_or_excused() -> None:
    shell = [command for language, block in blocks() if language in SHELLS for command in commands(block)]
    shell += inline()
    if not shell:
        pytest.skip("there is no README.md yet, or it shows no command")
    unknown = [c for c in shell if not c.startswith("gantransfer ") and excuse(c) is None]
    assert not unknown, f"neither run here nor excused: {unknown}"


def test_few_steps_are_put_into_every_command() -> None:
    assert shortened("gantransfer adapt --source s --steps 500")[3:] == ["--steps", "3", "--n-fake", "64"]
    assert shortened("gantransfer sample runs/demo -n 4") == ["sample", "runs/demo", "-n", "4"]
    assert commands("a \\\n  b  # why\n# only a comment\n$ c\n") == ["a b", "c"]


@pytest.mark.timeout(900)
def test_the_readme_works_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_steps: None, capsys: pytest.CaptureFixture[str]
) -> None:
    if not blocks():
        pytest.skip("there is no README.md yet")
    if not shipped_models():
        pytest.skip("no model is shipped yet, and the README starts from one")
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "readme"}
    for language, block in blocks():
        if language in SHELLS:
            failed = run_shell(block)
            assert not failed, f"{failed}\n{capsys.readouterr().err}"
        elif language == "python":
            exec(compile(block, "README.md", "exec"), names)
        elif language == "yaml" and (file := re.match(r"# ([\w./-]+\.yaml)\n", block)):
            Path(file[1]).write_text(block, encoding="utf-8")
    shown = {command for language, block in blocks() if language in SHELLS for command in commands(block)}
    failed = run_shell("\n".join(command for command in inline() if command not in shown))
    assert not failed, f"{failed}\n{capsys.readouterr().err}"

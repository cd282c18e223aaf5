"""The command line: parsing, help, the screen."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from inspect import signature
from pathlib import Path

import command
import pytest
from command import Capture, call, refused

from gantransfer import api
from gantransfer.cli.common import DATA, RHYTHM, RUN_FLAGS, THREADS, TRAINING
from gantransfer.cli.fields import method_flags, pretrain_flags
from gantransfer.cli.parsing import parse
from gantransfer.cli.verbs import BY_NAME, VERBS
from gantransfer.data import ImageData
from gantransfer.defaults import Training
from gantransfer.registry import methods

place = command.place


def test_flags_in_both_spellings_and_over_a_config(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("steps: 5\nbatch-size: 8\nlr: 1e-3\nclasses: [1, b]\nmethod: bsa\n")
    words = ["--config", str(config), "--source", "s", "--data=d", "--per_class", "3", "--batch-size", "16"]
    assert parse(BY_NAME["adapt"], words) == {
        "steps": 5, "batch_size": 16, "lr": 0.001, "classes": ["1", "b"], "method": "bsa", "source": "s",
        "data": "d", "per_class": 3,
    }


def test_lists_of_numbers_know_ranges() -> None:
    words = ["m", "--augment-to", "3", "--style-groups", "2,5-7"]
    assert parse(BY_NAME["sample"], words)["style_groups"] == [2, 5, 6, 7]


@pytest.mark.parametrize(("words", "value"), [
    (["--residuals"], True), (["--residuals", "false"], False), (["--residuals=no"], False),
    (["--no-residuals"], False), (["--no_residuals"], False),
])
def test_switches(words: list[str], value: bool) -> None:
    given = parse(BY_NAME["adapt"], ["--source", "s", "--data", "d", *words])
    assert given["residuals"] is value


def test_method_fields_take_none_and_numbers() -> None:
    words = ["--source", "s", "--data", "d", "--lr-scores", "none", "--lr", "1e-4", "--finetune-nimg", "0"]
    given = parse(BY_NAME["adapt"], words)
    assert given["lr_scores"] is None and given["lr"] == 1e-4 and given["finetune_nimg"] == 0


def test_a_switch_does_not_swallow_the_argument_after_it() -> None:
    assert parse(BY_NAME["data check"], ["--allow-tiny", "folder"]) == {"allow_tiny": True, "path": "folder"}


@pytest.mark.parametrize(("words", "expected"), [
    ("adapd", "did you mean 'adapt'"),
    ("data", "check, glyph100"),
    ("data chekc", "check, glyph100"),
    ("adapt --stpes 3", "did you mean '--steps'"),
    ("adapt --steps three", "--steps is 'three'; give a whole number"),
    ("adapt --steps 0", "1 or more"),
    ("adapt --steps", "--steps needs a value"),
    ("adapt --source s", "needs --data"),
    ("adapt --fit corp", "did you mean 'crop'"),
    ("adapt --method bas --lr 3", "did you mean 'bsa'"),
    ("adapt --method bsa --lambda-r 3", "belongs to method cgantransfer"),
    ("adapt --source s --data d --residuals=maybe", "--residuals is 'maybe'; give true or false"),
    ("sample", "needs MODEL"),
    ("sample a b", "'b' is one argument too many"),
    ("sample a --interpolate A", "give two classes"),
    ("sample a --single --interpolate A,B", "cannot go together"),
    ("sample a --truncation 2", "at most 1"),
    ("sample a --out b.jpg", ".png"),
    ("sample a --mix-styles 0:1 --seed 3", "--seed 3 has no meaning beside --mix-styles"),
    ("sample a --augment-to 3 -n 3", "-n 3 has no meaning beside --augment-to"),
    ("sample a --augment-to 3 --style-groups 6-5", "is '6-5'; give a whole number"),
    ("evaluate a --data b --metrics fid", "metric 'fid' not found"),
    ("compare --source s --data d --out o", "needs --methods"),
    ("compare --source s --data d --out o --methods bsa --fields bsa.lrr=3", "did you mean 'lr'"),
    ("compare --source s --data d --out o --methods bsa --fields lr=3", "METHOD.NAME=VALUE"),
    ("compare --source s --data d --out o --methods bsa --fields freezed.lr_d=3", "not one of the compared"),
    ("data glyph100 --out g", ".zip"),
    ("-q models", "before the verb"),
    ("models -x", "no flag '-x'"),
])
def test_usage_errors_name_the_way_out(
    capsys: Capture, words: str, expected: str
) -> None:
    assert expected in refused(capsys, 2, *words.split())


@pytest.mark.parametrize(("text", "expected"), [
    ("stpes: 3", "did you mean 'steps'"), ("steps: [1]", "give one value"), ("a: [", "not valid YAML"),
    ("- 1", "no mapping"), ("method: bsa\nlambda_r: 1", "belongs to method cgantransfer"),
    ("format_version: 1\nkind: adapt", "looks like a run's"),
])
def test_config_errors(capsys: Capture, tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert expected in refused(capsys, 2, "adapt", "--source", "s", "--data", "d", "--config", tmp_path / "c.yaml")


def test_documented_defaults_are_the_librarys() -> None:
    adapt, load = signature(api.adapt).parameters, signature(ImageData).parameters
    training = {field.name: field.default for field in fields(Training)}
    assert {flag.name for flag in (*TRAINING, THREADS, *RHYTHM)} >= set(training)
    for flag in (*TRAINING, THREADS, *RHYTHM):
        expected = training[flag.name] if flag.name in training else adapt[flag.name].default
        assert flag.default == expected, flag.name
    for flag in DATA:
        assert flag.default == load["seed" if flag.name == "data_seed" else flag.name].default, flag.name
    assert adapt["method"].default == next(f for f in BY_NAME["adapt"].flags if f.name == "method").default


def test_no_method_field_hides_a_flag() -> None:
    names = {flag.name for flag in BY_NAME["adapt"].flags}
    for method in methods:
        assert not names & {flag.name for flag in method_flags({"method": method})}, method
    own = [flag.name for flag in (*BY_NAME["pretrain"].flags, *pretrain_flags({}))]
    assert not {flag.name for flag in RUN_FLAGS} & {flag.name for flag in pretrain_flags({})}
    assert own.count("lr_g") == 1


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS])
def test_every_verb_has_help_with_examples_that_parse(capsys: Capture, verb: str) -> None:
    code, out, _ = call(capsys, *verb.split(), "--help")
    assert code == 0 and len(BY_NAME[verb].examples) in range(1, 7)
    for example in BY_NAME[verb].examples:
        import shlex

        words = shlex.split(example)
        assert example in out and words[0] == "gantransfer"
        other = " ".join(words[1:3]) if " ".join(words[1:3]) in BY_NAME else words[1]
        rest = words[1 + len(other.split()) :]
        if ".yaml" not in example or not BY_NAME[other].layered:  # files of the examples do not exist
            parse(BY_NAME[other], rest)


def test_help_lists_the_methods_fields(capsys: Capture) -> None:
    code, out, _ = call(capsys, "adapt", "--method", "bsa", "--help")
    assert code == 0 and "--lr-noise" in out and "default: 0.005" in out and "--lambda-r" not in out
    assert "--d-widths" in call(capsys, "pretrain", "--arch=biggan", "--help")[1]


def test_help_imports_no_torch() -> None:
    probe = ("import sys; from gantransfer.cli import main; "
             "codes = [main(['--help']), main(['adapt', '--help']), main(['--version'])]; "
             "sys.exit(any(codes) or 'torch' in sys.modules or 'rich' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True).returncode == 0


def test_module_and_version() -> None:
    import gantransfer

    result = subprocess.run([sys.executable, "-m", "gantransfer", "--version"], capture_output=True, text=True)
    assert result.stdout.strip() == f"gantransfer {gantransfer.__version__}"


def test_the_bar_takes_every_event() -> None:
    import io

    from rich.console import Console

    from gantransfer.cli.progress import Bar, _bar

    text = io.StringIO()
    with _bar(Console(file=text, force_terminal=True, width=160)) as bar:
        show = Bar(bar)
        for event in (
            {"event": "message", "text": "first"},
            {"event": "start", "steps": 10, "step": 0, "out": "runs/[red]x", "plan": ("copied: [all]",)},
            {"event": "trained", "step": 5, "seconds": 1.0, "images_per_second": 64.0, "D/real": 0.5, "G/fake": 1.0},
            {"event": "evaluated", "step": 5, "frechet": 12.3, "best": True},
            {"event": "rolled back", "step": 3},
            {"event": "unheard of", "step": 3},
        ):
            show(event)
    for expected in ("first", "runs/[red]x", "- copied: [all]", "12.3", "64 images/s", "back to step 3"):
        assert expected in text.getvalue()


def test_only_our_warnings_are_shown(capsys: Capture) -> None:
    import warnings

    import gantransfer
    from gantransfer.cli.screen import clean_warnings

    with clean_warnings():
        for _ in range(2):
            warnings.warn_explicit("ours", UserWarning, str(Path(gantransfer.__file__).parent / "x.py"), 1)
        warnings.warn_explicit("theirs", UserWarning, "/elsewhere/y.py", 1)
    assert capsys.readouterr().err == "note: ours\n"


def test_only_the_first_process_prints(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    code, out, err = call(capsys, "models")
    assert (code, out, err) == (0, "", "")

"""A training process that is told to stop by a real signal, from outside."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import same
from toy import Toy

from gantransfer.checkpoint import load_checkpoint

STEPS = 40_000  # far more than can pass before the signal comes

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from toy import Toy
from gantransfer.errors import GanTransferError
from gantransfer.schedule import Hooks
toy = Toy(Path(sys.argv[2]), hooks=Hooks(report=lambda e: print(e["step"], flush=True)), steps=int(sys.argv[3]),
          log_nimg=10, checkpoint_nimg=0)
try:
    toy.trainer.run()
except GanTransferError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_from_outside(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(tmp_path / "run"), str(STEPS)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()  # training has begun
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "everything saved; go on with: gantransfer resume" in error and "Traceback" not in error
    _, meta = load_checkpoint(tmp_path / "run" / "checkpoints")
    step = meta["progress"]["step"]
    assert f"stopped at step {step} of {STEPS}" in error
    # Taken up here for three more steps, it is where an uninterrupted run would be.
    resumed, straight = (Toy(tmp_path / name, steps=step + 3) for name in ("run", "straight"))
    resumed.trainer.restore()
    for toy in (resumed, straight):
        toy.trainer.run()
    states = [load_checkpoint(tmp_path / name / "checkpoints")[0] for name in ("run", "straight")]
    assert same(*states)


SLOW = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from toy import Toy, usual
from gantransfer.cli import main
import gantransfer.cli as cli

def phases(toy):
    first, second = usual(toy)
    def loss(batch):
        print("begun", flush=True)
        time.sleep(60)
        return toy.critic_loss(batch)
    return [type(first)("D", ("D",), loss), second]

cli._run = lambda words: Toy(Path(sys.argv[2]), phases).trainer.run()
sys.exit(main([]))
"""


def test_a_second_signal_from_outside_quits_at_once(tmp_path: Path) -> None:
    """In the middle of a step that would take a minute."""
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(Path(__file__).parent), str(tmp_path / "run")],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)  # the step is to be finished
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in error
    assert load_checkpoint(tmp_path / "run" / "checkpoints")[1]["progress"]["step"] == 0

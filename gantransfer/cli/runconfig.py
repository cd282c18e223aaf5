"""A run's resolved ``config.yaml`` as flat settings, so that ``--config RUN/config.yaml`` repeats the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gantransfer.errors import GanTransferError, UsageError

NOT_SETTINGS = ("format_version", "kind", "command", "plan")


def flatten(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """`config` unchanged if it is flat already; a run's sections become the flags that lead to them.

    Raises:
        UsageError: sections that belong to no run.
    """
    if "format_version" not in config:
        return dict(config)
    try:
        flat: dict[str, Any] = {**config["train"], **config["measure"]}
        flat |= {"loss" if k == "kind" else k: v for k, v in config["loss"].items()}
        flat |= {"data_seed" if k == "seed" else "data" if k == "path" else k: v for k, v in config["data"].items()}
        method = dict(config["method"])
        name = method.pop("name")
        if config["kind"] == "adapt":
            from gantransfer.cli.fields import flag_names

            method = {flag_names(name).get(key, key): value for key, value in method.items()}
        flat |= method
        if config["kind"] == "adapt":
            names = [config["source"]["name"], *(other["name"] for other in config["source"].get("others", ()))]
            flat |= {"method": name, "source": ",".join(names)}
        else:
            network = {k: v for k, v in config["source"]["network"].items() if k != "num_classes"}
            flat |= {"arch": config["source"]["arch"], **network}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, GanTransferError):
            raise
        raise UsageError(f"config '{path}' looks like a run's but lacks {error}; give the config.yaml of a run "
                         "or plain 'name: value' lines") from None
    for computed in ("size", "progress", *(() if config["kind"] == "pretrain" else ("channels",))):
        flat.pop(computed, None)
    return {k: v for k, v in flat.items() if k not in NOT_SETTINGS and v is not None}

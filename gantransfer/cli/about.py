"""The verb ``doctor``."""

from __future__ import annotations

from typing import Any

from gantransfer.cli.screen import say, say_json


def doctor(settings: dict[str, Any]) -> int:
    """``gantransfer doctor``: not 0 if something needed is missing or broken."""
    from gantransfer.doctor import examine, exit_code

    findings = examine()
    code = exit_code(findings)
    if settings.get("json"):
        say_json({"ok": code == 0, "findings": findings})
        return code
    chapter = None
    for finding in findings:
        if finding["chapter"] != chapter:
            chapter = finding["chapter"]
            say(f"{chapter}:")
        mark = "ok" if finding["ok"] else "--" if finding["optional"] else "!!"
        advice = f"  ({finding['advice']})" if finding["advice"] else ""
        say(f"  {mark}  {finding['name']}: {finding['value']}{advice}")
    say("something needed is missing; see the lines marked !!" if code else "everything needed is in place")
    return code

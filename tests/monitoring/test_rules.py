"""What promtool says of the alert rules, of the dashboard's expressions, and of what is really exposed.

`make test-all` runs this: promtool is not on every machine, and `install.sh` here fetches it.
"""

import json
import os
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.desk import Desk

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring"
CACHE = Path(os.environ.get("AGENTQ_TEST_CACHE") or Path.home() / ".cache" / "agentq-tests")


def promtool(*arguments: object, stdin: str = "") -> str:
    """What it prints; it must have nothing to complain of."""
    program = shutil.which("promtool") or CACHE / "promtool"
    done = subprocess.run([program, *map(str, arguments)], input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_alert_rules_are_rules() -> None:
    assert "6 rules found" in promtool("check", "rules", MONITORING / "alerts.yml")


@pytest.mark.promise("alerts")
def test_each_alert_comes_when_it_should_and_not_when_all_is_well() -> None:
    assert "SUCCESS" in promtool("test", "rules", MONITORING / "alerts.test.yml")


@pytest.mark.parametrize(
    ("said", "instead"),
    [
        ("> 900", "> 90000"),
        ("> 900", "> 300"),
        ("unless on", "and on"),
        ("[15m]", "[1m]"),
        ('state="silent"} > 0', 'state="silent"} > 1'),
        ("delta(agentq_dead_letters[1h])", "agentq_dead_letters"),
        ("> 0.25", "> 0.6"),
        ("> 0.25", "> 0"),
        (">= 3", ">= 0"),
        ("agentq_up == 0 or ", ""),
        ("engine_up == 0", "engine_up == 2"),
        ("for: 2m", "for: 0m"),
        ("for: 5m", "for: 0m"),
    ],
)
def test_their_tests_notice_when_a_rule_is_wrong(tmp_path: Path, said: str, instead: str) -> None:
    rules = (MONITORING / "alerts.yml").read_text(encoding="utf-8")
    assert said in rules
    (tmp_path / "alerts.yml").write_text(rules.replace(said, instead), encoding="utf-8")
    shutil.copy(MONITORING / "alerts.test.yml", tmp_path)
    with pytest.raises(AssertionError, match="FAILED"):
        promtool("test", "rules", tmp_path / "alerts.test.yml")


@pytest.mark.promise("alerts")
def test_the_dashboards_expressions_are_promql(tmp_path: Path) -> None:
    board = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(expressions) > 20
    plain = [
        one.replace("$__rate_interval", "5m").replace("$instance", ".*").replace("$agent", ".*") for one in expressions
    ]
    assert not [one for one in plain if "$" in one]
    rules = [{"record": f"panel:{n}", "expr": one} for n, one in enumerate(plain)]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    assert f"{len(rules)} rules found" in promtool("check", "rules", path)


def test_what_is_exposed_follows_the_conventions(desk: Desk) -> None:
    desk.task()
    runner = ("--runner", "true", "--metrics-port", "0")
    for arguments in (("metrics", "serve", "--port", "0"), ("worker", "run", "implementation-worker", *runner)):
        process = desk.start(*arguments)
        try:
            assert process.stderr
            said = (re.search(rb"(http://\S+/metrics)", line) for line in process.stderr)
            url = next(found[1].decode() for found in said if found)
            with urllib.request.urlopen(url, timeout=30) as answer:
                text = answer.read().decode()
            assert "# TYPE agentq_build_info gauge" in text
            ours = [line for line in text.splitlines(keepends=True) if "agentq_" in line]
            assert promtool("check", "metrics", stdin="".join(ours)) == ""
        finally:
            process.terminate()
            process.communicate(timeout=30)

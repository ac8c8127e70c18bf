"""docs/metrics.md, the dashboard and the alert rules: equal to what the daemon shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from metrics_rig import ROOT, Page, World, give_all, names_in

from p104d.daemon.metrics_counts import REASONS

GRAFANA = ROOT / "docs" / "grafana"
DASHBOARD = json.loads((GRAFANA / "p104d.json").read_text("utf-8"))
ALERTS = yaml.safe_load((GRAFANA / "alerts.yml").read_text("utf-8"))
TEXT = (ROOT / "docs" / "metrics.md").read_text("utf-8")
with_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is missing")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """One page with every series there is."""
    world = World(tmp_path_factory.mktemp("metrics"))
    give_all(world)
    yield world.page()
    world.close()


def rows(heading: str) -> dict[str, list[str]]:
    """The cells of the table below ``heading``, by the name in the first."""
    part = TEXT.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")
    ]
    return {row[0].strip("`"): row[1:] for row in cells[2:]}


def shown(page: Page, prefix: str) -> dict[str, list[str]]:
    """The same, as the page has it: a counter by the name of its samples."""
    found = {}
    for name, family in page.families.items():
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        full = f"{name}_total" if family.type == "counter" else name
        if full.startswith(prefix):
            found[full] = [family.type, labels, family.documentation]
    return found


def test_every_metric_is_documented_and_nothing_else(page: Page) -> None:
    documented = {
        name: [row[0], set(re.findall(r"`(\w+)`", row[1])), row[2]] for name, row in rows("Every metric").items()
    }
    ours = shown(page, "p104_")
    # What the library tells of a process is in its own words.
    for name in [name for name in ours if name.startswith("p104_process_")]:
        assert documented.pop(name)[0] == ours.pop(name)[0]
    assert documented == ours


def test_every_name_of_dcgm_is_documented(page: Page) -> None:
    documented = {name: row[0] for name, row in rows("The names of DCGM").items()}
    assert documented == {name: row[2] for name, row in shown(page, "DCGM_").items()}


def test_every_reason_is_named() -> None:
    assert all(f"`{reason}`" in TEXT for reasons in REASONS.values() for reason in reasons)


# --- the dashboard ----------------------------------------------------------------------------------------------------


def targets() -> list[dict[str, Any]]:
    return [target for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


def expressions() -> list[str]:
    """Of all panels and variables."""
    return [target["expr"] for target in targets()] + [
        variable["query"]["query"] for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"
    ]


def test_the_dashboard_asks_for_metrics_that_exist(page: Page) -> None:
    assert len(expressions()) > 25
    for expression in expressions():
        names = names_in(expression)
        assert names and names <= page.sample_names, expression
        assert all(name.startswith("p104_") for name in names), expression


def labels_in(expression: str) -> set[str]:
    """Labels that matchers, aggregations and matchings name."""
    matched = {
        label for braces in re.findall(r"\{([^}]*)\}", expression) for label in re.findall(r"(\w+)\s*(?==|!)", braces)
    }
    grouped = re.findall(r"\b(?:by|on|group_left|without)\s*\(([^)]*)\)", expression)
    return matched | {label.strip() for group in grouped for label in group.split(",") if label.strip()}


@pytest.mark.parametrize("expression", [*expressions(), *(rule["expr"] for rule in ALERTS["groups"][0]["rules"])])
def test_labels_that_are_asked_for_exist(expression: str, page: Page) -> None:
    known = {"job", "instance"}
    known |= {label for name in names_in(expression) for sample in page.labels(name) for label in sample}
    assert labels_in(expression) <= known


@pytest.mark.parametrize("target", targets(), ids=lambda target: target["expr"][:60])
def test_legends_name_labels_that_exist(target: dict[str, Any], page: Page) -> None:
    known = {label for name in names_in(target["expr"]) for one in page.labels(name) for label in one} | {"instance"}
    assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= known


def test_the_dashboard_is_whole() -> None:
    panels = DASHBOARD["panels"]
    assert DASHBOARD["schemaVersion"] >= 38, "Grafana 10"
    assert len({panel["id"] for panel in panels}) == len(panels)
    named = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) - {"__rate_interval", "__all"} == named
    assert next(one for one in DASHBOARD["templating"]["list"] if one["name"] == "datasource")["type"] == "datasource"
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}"


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


@with_promtool
def test_promtool_understands_every_expression(tmp_path: Path) -> None:
    plain = [re.sub(r'"\$(instance|card)"', '".*"', target["expr"]) for target in targets()]
    rules = [
        {"record": f"x:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(plain)
    ]
    assert not any("$" in rule["expr"] for rule in rules)
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and f"{len(rules)} rules found" in done.stdout, done.stdout + done.stderr


# --- alerts -----------------------------------------------------------------------------------------------------------


def test_alerts_ask_for_metrics_that_exist(page: Page) -> None:
    for rule in ALERTS["groups"][0]["rules"]:
        names = names_in(rule["expr"])
        assert names <= page.sample_names, rule["alert"]
        assert names or rule["alert"] == "P104Down", "up is Prometheus' own"
        labels = {label for name in names for one in page.labels(name) for label in one} | {"instance"}
        assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= labels, rule["alert"]


def test_example_of_the_scrape_configuration_is_one() -> None:
    block = re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert block is not None and yaml.safe_load(block[1])["scrape_configs"][0]["job_name"] == "p104d"


@with_promtool
def test_promtool_checks_the_rules_and_the_configuration(tmp_path: Path) -> None:
    done = subprocess.run(["promtool", "check", "rules", str(GRAFANA / "alerts.yml")], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    block = re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert block is not None
    (tmp_path / "token").write_text("x")
    path = tmp_path / "prometheus.yml"
    path.write_text(block[1].replace("/etc/prometheus/p104d.token", str(tmp_path / "token")))
    done = subprocess.run(["promtool", "check", "config", str(path)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


_RIG = 'job="p104d", instance="rig"'
_CARD = f'{_RIG}, card="GPU-0", index="0", name="P104-100"'
#: alert -> (series with their values, a minute apart; the minute at which it fires), and a minute at which it does not.
FIRING: dict[str, tuple[dict[str, str], int, int]] = {
    "P104Down": ({f"up{{{_RIG}}}": "1x5 0x60"}, 20, 4),
    "P104SensorStale": ({f"p104_sensor_last_cycle_timestamp_seconds{{{_RIG}}}": "0 60 60 60 60 60"}, 4, 1),
    "P104DriverProblem": ({f'p104_driver_problem{{{_RIG}, kind="hang"}}': "_x5 1x20"}, 10, 3),
    "P104CardGone": ({f'p104_card_state{{{_CARD}, state="missing"}}': "0x5 1x20"}, 10, 4),
    "P104CardMemoryBad": ({f'p104_card_verdict{{{_CARD}, verdict="aliased"}}': "0x5 1x20"}, 10, 4),
    "P104CardXid": ({f'p104_card_xid_errors_total{{{_CARD}, code="79"}}': "_x20 1x60"}, 25, 60),
    "P104CardHot": (
        {
            f"p104_card_temperature_celsius{{{_CARD}}}": "60x5 85x20",
            f'p104_heat_limit_celsius{{{_RIG}, limit="no_new_jobs"}}': "85x30",
            f'p104_heat_limit_celsius{{{_RIG}, limit="stop_jobs"}}': "95x30",
        },
        10,
        4,
    ),
    "P104CardThrottled": ({f'p104_card_throttle{{{_CARD}, reason="hardware slowdown"}}': "_x5 1x30"}, 20, 4),
    "P104CardLinkFell": (
        {
            f"p104_card_link_width{{{_CARD}}}": "4x20 1x60",
            f"p104_card_utilization_ratio{{{_CARD}}}": "0.9x80",
        },
        40,
        15,
    ),
    "P104JobsFailing": (
        {
            f'p104_jobs_ended_total{{{_RIG}, state="failed", reason="exit_code"}}': "0x30 0+1x60",
            f'p104_jobs_ended_total{{{_RIG}, state="succeeded", reason="exit_code"}}': "0x90",
        },
        60,
        25,
    ),
    "P104QueueStands": (
        {
            f'p104_jobs{{{_RIG}, state="queued"}}': "3x90",
            f'p104_jobs{{{_RIG}, state="running"}}': "1x20 0x70",
            f"p104_daemon_paused{{{_RIG}}}": "0x90",
        },
        60,
        25,
    ),
    "P104StepsFail": ({f"p104_loop_steps_failed_total{{{_RIG}}}": "0x20 1+1x60"}, 40, 15),
}


def test_every_alert_is_tried() -> None:
    assert set(FIRING) == {rule["alert"] for rule in ALERTS["groups"][0]["rules"]}


@with_promtool
def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    """By Prometheus' own evaluation: each fires on its series at one time and not at another."""
    tests = []
    for alert, (series, fires, silent) in FIRING.items():
        inputs = [{"series": name, "values": values} for name, values in series.items()]
        expression = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
        expected = [(silent, []), (fires, [{"labels": "{}", "value": 1}])]
        asked = [{"expr": expression, "eval_time": f"{minute}m", "exp_samples": found} for minute, found in expected]
        tests.append({"interval": "1m", "input_series": inputs, "promql_expr_test": asked})
    path = tmp_path / "test.yml"
    content = {"rule_files": [str(GRAFANA / "alerts.yml")], "evaluation_interval": "1m", "tests": tests}
    path.write_text(yaml.safe_dump(content))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

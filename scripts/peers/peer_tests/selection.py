"""A pytest plugin: leaves out what PEER.toml says, and writes down how the rest ends."""

import json
import os
import pathlib
import tomllib

import pytest

TABLE = tomllib.loads(pathlib.Path(os.environ["PEER_TABLE"]).read_text())
# By the test: what is to be written down of it.
records = {}


def names(pattern, test):
    """Whether a pattern of the table names a test, FILE::NAME[PARAMETERS]: by its file, its name, or how its parameters begin."""
    return test == pattern or test.startswith((f"{pattern}::", f"{pattern}[")) or ("[" in pattern and test.startswith(pattern))


def first_rule(rules, test):
    """The first rule that names the test, or one that says nothing."""
    nothing = {"kind": None, "why": None}
    return next((rule for rule in rules if any(names(pattern, test) for pattern in rule["tests"])), nothing)


def pytest_collection_modifyitems(config, items):
    selected, left_out = [], []
    for item in items:
        test = f"{item.path.name}::{item.name}"
        why = config.hook.pytest_peer_leaves_out(item=item) or first_rule(TABLE["not_selected"], test)["why"]
        if why:
            record = {"outcome": "not selected", "why": why}
        else:
            fails = first_rule(TABLE["fails"], test)
            record = {"outcome": "not run", "why": fails["why"], "kind": fails["kind"]}
        records[item.nodeid] = {"test": test, "file": item.path.name, **record}
        (left_out if why else selected).append(item)
    items[:] = selected
    config.hook.pytest_deselected(items=left_out)


def pytest_addhooks(pluginmanager):
    pluginmanager.add_hookspecs(Hooks)


class Hooks:
    @pytest.hookspec(firstresult=True)
    def pytest_peer_leaves_out(item):
        """Why this test is not selected, by a rule that needs more than its name; else None."""


def pytest_runtest_logreport(report):
    # A part of a test, which schemathesis makes for each route, counts for the whole.
    record = records.get(report.nodeid) or records[report.nodeid.partition("[")[0]]
    if report.failed:
        record.update(outcome="failed", message=str(report.longrepr).strip().splitlines()[-1])
    elif report.skipped:
        # The reason is the last of three.
        record.update(outcome="not selected", why=report.longrepr[2].removeprefix("Skipped: "))
    elif report.when == "call" and record["outcome"] == "not run":
        record.update(outcome="passed")


def pytest_sessionfinish():
    pathlib.Path(os.environ["PEER_RESULTS"]).write_text(json.dumps(list(records.values())))

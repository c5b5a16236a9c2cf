"""Catalogue: what there is, read from sources and folders."""

import json
from dataclasses import fields

import pytest

from edgeinc import catalogue, registry
from edgeinc.config import TrainSettings
from edgeinc.data._conventions import convention_names
from edgeinc.data._scenario import scenario_names
from edgeinc.errors import UsageError
from edgeinc.runs import create_run
from edgeinc.schema import Listing, PluginDetails, RunInfo, RunSummary, from_json, to_json

PLUGINS = [(kind, name) for kind in registry.KINDS for name in registry.names(kind)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", registry.KINDS)
def test_a_listing_has_every_plugin_of_its_kind(kind):
    items = catalogue.listing(kind).items
    assert tuple(item.name for item in items) == registry.names(kind)
    assert all(item.summary for item in items)


def test_all_lists_every_kind_and_notes_it(folder):
    found = [(item.note, item.name) for item in catalogue.listing().items]
    plans = [("scenarios", name) for name in scenario_names()]
    rules = [("conventions", name) for name in convention_names()]
    assert found == [*PLUGINS, *plans, *rules]


def test_a_plan_of_many_classes_is_listed_by_their_number():
    plans = {item.name: item.summary for item in catalogue.listing("scenarios").items}
    assert plans["voc:15-1"] == "15 + 1 + 1 + 1 + 1 + 1 classes"
    assert all(len(summary) < 100 for summary in plans.values())


def test_an_unknown_kind_is_refused_with_the_nearest():
    with pytest.raises(UsageError) as error:
        catalogue.listing("method")
    assert "methods" in error.value.hint


def test_runs_are_those_of_this_folder(folder):
    create_run(folder / "runs" / "b", RunInfo("erfnet", {}, (64, 96), "2026-01-01"))
    create_run(folder / "runs" / "a", RunInfo("bisenet", {}, (64, 96), "2026-01-01"))
    items = catalogue.listing("runs").items
    assert [(item.name, item.available) for item in items] == [("runs/a", True), ("runs/b", True)]
    assert "bisenet" in items[0].summary
    assert "0 steps" in items[0].summary


def test_a_damaged_run_is_listed_with_the_reason(folder):
    create_run(folder / "runs" / "a", RunInfo("erfnet", {}, (64, 96), "2026-01-01"))
    (folder / "runs" / "a" / "run.json").write_text('{"model": 3}')
    (item,) = catalogue.listing("runs").items
    assert (item.available, "run.json" in item.note) == (False, True)


@pytest.mark.parametrize(("kind", "name"), PLUGINS, ids=lambda value: value)
def test_details_of_every_plugin_can_be_read_back(kind, name):
    found = catalogue.details(name)
    assert (found.kind, found.summary) == (kind, registry.summary(kind, name))
    json_form = json.loads(to_json(found))
    again = json.loads(to_json(from_json(PluginDetails, to_json(found), source="test")))
    assert again == json_form


@pytest.mark.parametrize(
    ("kind", "name"), [p for p in PLUGINS if p[0] in ("models", "methods")], ids=lambda v: v
)
def test_options_are_the_fields_of_the_config(kind, name):
    pytest.importorskip("torch")
    config = registry.load(kind, name).Config
    found = {o.name: o.default for o in catalogue.details(name).options}
    assert found == {f.name: getattr(config(), f.name) for f in fields(config)}
    assert all(option.doc for option in catalogue.details(name).options)


def test_types_are_spelt_out():
    types = {o.name: o.type for o in catalogue.details("bisenet").options}
    assert types == {
        "depth": "Literal[18, 50, 101]",
        "width": "float",
        "fusion": "Literal['paper', 'norm']",
        "align_corners": "bool",
    }


def test_details_import_no_plugin(python):
    code = (
        "import sys; from edgeinc import catalogue\n"
        "catalogue.details('cil'); catalogue.listing('models')\n"
        "print([m for m in sys.modules if m.startswith('edgeinc.m') or m == 'torch'])"
    )
    done = python("-c", code)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_run_is_summarised(folder):
    create_run(folder / "mine", RunInfo("erfnet", {}, (64, 96), "2026-01-01"))
    (folder / "mine" / "export").mkdir()
    (folder / "mine" / "export" / "step-0.fp32.onnx").touch()
    found = catalogue.details("mine")
    assert isinstance(found, RunSummary)
    assert (found.run.model, found.steps, found.score) == ("erfnet", (), None)
    assert [path.replace("\\", "/") for path in found.artifacts] == ["mine/export/step-0.fp32.onnx"]


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UsageError) as error:
        catalogue.details("erfnt")
    assert "erfnet" in error.value.hint


def test_an_artifact_that_is_not_there_is_named(folder):
    with pytest.raises(UsageError) as error:
        catalogue.details("gone.onnx")
    assert "gone.onnx" in error.value.message


def test_a_listing_can_be_read_back():
    found = catalogue.listing("methods")
    assert from_json(Listing, to_json(found), source="test") == found


def test_every_setting_of_training_is_documented():
    docs = catalogue.attributes(TrainSettings.__doc__)
    assert set(docs) == {f.name for f in fields(TrainSettings)}
    assert docs["device"].startswith("`auto`, `cpu`")


def test_attributes_joins_lines_and_splits_shared_entries():
    doc = """A thing.

    Attributes:
        width: How wide it is,
            in pixels: always.
        left, right: Its edges.

    Example:
        other: not this.
    """
    assert catalogue.attributes(doc) == {
        "width": "How wide it is, in pixels: always.",
        "left": "Its edges.",
        "right": "Its edges.",
    }
    assert catalogue.attributes("No section.") == {}

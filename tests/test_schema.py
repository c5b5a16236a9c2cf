"""Every document survives writing and reading; a damaged one is refused with file and place."""

import dataclasses
import inspect
import json
import types
import typing
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeinc import schema
from edgeinc.errors import EdgeincError
from edgeinc.schema import ClassInfo, ClassTable, from_json, to_dict, to_json

KINDS = sorted(
    (k for _, k in inspect.getmembers(schema, dataclasses.is_dataclass) if inspect.isclass(k)),
    key=lambda k: k.__name__,
)
DOCUMENTS = [k for k in KINDS if "schema_version" in {f.name for f in dataclasses.fields(k)}]
TABLE = ClassTable((ClassInfo(0, "sky", (1, 2, 3), 0), ClassInfo(1, "car", (4, 5, 6), 1)))

numbers = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | st.integers() | numbers | st.text()
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=2) | st.dictionaries(st.text(), v, max_size=2)
)
PLAIN = {int: st.integers(), float: numbers, str: st.text(), bool: st.booleans()}


def strategy(hint):
    """Values of an annotation, as reading JSON gives them back (an Any holds JSON values)."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return instances(hint)
    if hint is typing.Any:
        return values
    if hint is type(None):
        return st.none()
    if origin is typing.Literal:
        return st.sampled_from(args)
    if origin in (types.UnionType, typing.Union):
        return st.one_of(*map(strategy, args))
    if origin is dict:
        return st.dictionaries(strategy(args[0]), strategy(args[1]), max_size=2)
    if origin is tuple and args[-1] is Ellipsis:
        return st.lists(strategy(args[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(strategy, args))
    return PLAIN[hint]


@cache
def instances(kind):
    hints = typing.get_type_hints(kind)
    fields = [f.name for f in dataclasses.fields(kind) if f.name != "schema_version"]
    return st.builds(kind, **{name: strategy(hints[name]) for name in fields})


def first(kind):
    """One instance of a kind whose every collection has an entry, the same on every run."""

    def value(hint):
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if dataclasses.is_dataclass(hint):
            return first(hint)
        if origin is typing.Literal:
            return args[0]
        if origin in (types.UnionType, typing.Union):
            return value(args[0])
        if origin is dict:
            return {"k": value(args[1])}
        if origin is tuple:
            return tuple(value(a) for a in args if a is not Ellipsis)
        return {int: 1, float: 1.5, str: "text", bool: True, typing.Any: "text"}[hint]

    hints = typing.get_type_hints(kind)
    return kind(**{f.name: value(hints[f.name]) for f in dataclasses.fields(kind)})


def number_places(document, types):
    """Every place of nested JSON that holds a number, as a tuple of keys."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        if isinstance(value, dict | list):
            yield from ((key, *rest) for rest in number_places(value, types))
        elif isinstance(value, types) and not isinstance(value, bool):
            yield (key,)


def numbers_of(*types):
    """(kind, place) of every number in the first instance of every kind, as test parameters."""
    return [
        pytest.param(kind, path, id=f"{kind.__name__}-{'.'.join(map(str, path))}")
        for kind in KINDS
        for path in number_places(json.loads(to_json(first(kind))), types)
    ]


def edited(document, path, value):
    """The document's JSON with `value` put at a place."""
    data = holder = json.loads(to_json(document))
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return json.dumps(data)


def refusal(kind, text):
    with pytest.raises(EdgeincError) as caught:
        from_json(kind, text, source="some/file.json")
    assert "some/file.json" in caught.value.message
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_is_written_reads_back_equal(kind, data):
    document = data.draw(instances(kind))
    assert from_json(kind, to_json(document), source="file.json") == document


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_documents_cannot_be_changed_in_place(kind):
    document = first(kind)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(document, dataclasses.fields(kind)[0].name, None)


@pytest.mark.parametrize("kind", DOCUMENTS, ids=lambda k: k.__name__)
def test_a_document_states_its_schema_version(kind):
    assert json.loads(to_json(first(kind)))["schema_version"] == schema.SCHEMA_VERSION


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_an_unknown_key_is_refused_with_its_place(kind):
    text = edited(first(kind), ("surprise",), 1)
    assert "surprise" in refusal(kind, text)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_a_missing_key_is_refused_with_its_place(kind):
    required = next(
        f.name
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    )
    data = json.loads(to_json(first(kind)))
    del data[required]
    assert required in refusal(kind, json.dumps(data))


@pytest.mark.parametrize(("kind", "path"), numbers_of(int, float))
def test_a_number_written_as_text_is_refused_with_its_place(kind, path):
    text = edited(first(kind), path, "1")
    assert ".".join(map(str, path)) in refusal(kind, text)


@pytest.mark.parametrize(("kind", "path"), numbers_of(float))
def test_not_a_number_is_refused_with_its_place(kind, path):
    text = edited(first(kind), path, float("nan"))
    assert "NaN" in text
    assert ".".join(map(str, path)) in refusal(kind, text)


@pytest.mark.parametrize("word", ["Infinity", "-Infinity"])
def test_an_infinite_score_is_refused_with_its_place(word):
    text = edited(first(schema.EvalResult), ("miou", "old"), float(word))
    assert f": {word}" in text
    assert "miou.old" in refusal(schema.EvalResult, text)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_never_written(number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(schema.ClassScore(0, "sky", number, 0))


@pytest.mark.parametrize("kind", DOCUMENTS, ids=lambda k: k.__name__)
def test_a_document_of_a_newer_edgeinc_asks_for_the_upgrade(kind):
    newer = dataclasses.replace(first(kind), schema_version=schema.SCHEMA_VERSION + 1)
    with pytest.raises(EdgeincError, match="schema version 2") as caught:
        from_json(kind, to_json(newer), source="file.json")
    assert "upgrade" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "3", b"\xff\xfe", '{"classes": []'],
    ids=["empty", "cut", "list", "null", "number", "not utf-8", "cut later"],
)
def test_what_is_no_json_document_is_refused(text):
    refusal(ClassTable, text)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("classes.0.id", "0"),
        ("classes.0.id", 0.5),
        ("classes.0.id", None),
        ("classes.1.color.2", "6"),
        ("classes.1.name", 7),
        ("background", "imagined"),
    ],
)
def test_an_edited_class_table_is_refused_with_the_place_of_the_edit(place, value):
    path = tuple(int(part) if part.isdigit() else part for part in place.split("."))
    text = edited(TABLE, path, value)
    assert place in refusal(ClassTable, text)


def test_only_documents_are_written():
    for thing in ({"classes": []}, ClassTable, "text"):
        with pytest.raises(TypeError, match="not a document"):
            to_dict(thing)


def test_a_class_table_answers_by_step():
    assert TABLE.names == ("sky", "car")
    assert [c.name for c in TABLE.of_step(1)] == ["car"]
    assert TABLE.until(0).names == ("sky",)
    assert (TABLE.last_step, ClassTable(()).last_step) == (1, -1)

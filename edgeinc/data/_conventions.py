"""How published work labels and scores what a step does not know: named conventions.

The rules differ between repositories, and so do their numbers: what void is in training, what a
class of the future is in testing, which images and which pixels are compared, and which classes
the mean is over. `default` is what edgeinc does unless told otherwise; the others repeat a
repository, data set by data set (MiB: Cermelli et al. 2020; PLOP: Douillard et al. 2021;
SSUL: Cha et al. 2021; DKD: Baek et al. 2022; CIL: Klingner et al. 2020).

    rules = load_convention("mib", dataset="voc")
    rules.train_void                      # 'background'

A rule of one's own goes behind the name: `--convention default,test_future=background`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgeinc.config import parse_size
from edgeinc.errors import UsageError
from edgeinc.registry import suggest
from edgeinc.schema import Convention

__all__ = ["convention_names", "in_words", "load_convention"]

_CENTER = "center512"
_PRESETS: Mapping[str, tuple[Convention, Mapping[str, Mapping[str, Any]]]] = {
    "default": (
        Convention("default", "edgeinc: what a step cannot know is not scored; no crop"),
        {},
    ),
    "mib": (
        Convention(
            "mib",
            "MiB (and SDR): void is trained as background, the mean leaves background out",
            train_void="background",
            eval_size=_CENTER,
            mean="without-background",
        ),
        {"voc": {"test_images": "learned"}, "ade20k": {"test_other": "void"}},
    ),
    "plop": (
        Convention(
            "plop",
            "PLOP: a class of the future is background in testing",
            test_future="background",
            eval_size=_CENTER,
        ),
        {"voc": {"test_images": "learned"}},
    ),
    "dkd": (
        Convention(
            "dkd",
            "DKD: void is a negative of every class in training, an absent class scores zero",
            train_void="background",
            test_future="background",
            absent="zero",
            eval_size=_CENTER,
        ),
        {"voc": {"test_images": "learned"}, "ade20k": {"test_future": "void"}},
    ),
    "ssul": (
        Convention(
            "ssul",
            "SSUL: a class of the future is background in testing",
            test_future="background",
            eval_size=_CENTER,
        ),
        {},
    ),
    "cil": (
        Convention("cil", "CIL (Klingner et al.): no background, all images, masks' own size"),
        {},
    ),
}


def convention_names() -> tuple[str, ...]:
    """The named conventions, `default` first."""
    return tuple(_PRESETS)


def load_convention(name: str, *, dataset: str = "") -> Convention:
    """A convention as it is on one data set.

    Args:
        name: One of `convention_names()`, perhaps with rules of one's own behind it:
            `mib,train_void=void,test_future=background`.
        dataset: Name of the data set, for the rules that a repository changes between them.

    Raises:
        UsageError: No such convention or rule; the message names the nearest.
    """
    preset, *changes = name.split(",")
    if preset not in _PRESETS:
        raise UsageError(f"unknown convention '{preset}'", hint=suggest(preset, convention_names()))
    base, by_dataset = _PRESETS[preset]
    own = dict(_rule(change) for change in changes)
    return replace(base, **{**by_dataset.get(dataset, {}), **own, "name": name})


def _rule(text: str) -> tuple[str, str]:
    """`test_future=background` as a field of `Convention` and its value."""
    field, _, value = text.strip().partition("=")
    if field not in _WORDS:
        raise UsageError(f"unknown rule '{field}'", hint=suggest(field, tuple(_WORDS)))
    known = _WORDS[field]
    if field == "eval_size" and value not in known:
        parse_size(value)
    elif value not in known:
        raise UsageError(f"{field} cannot be '{value}'", hint=f"use one of: {', '.join(known)}")
    return field, value


def in_words(name: str) -> tuple[str, ...]:
    """The rules of a convention, one sentence each, with what differs between data sets.

    Raises:
        UsageError: No such convention.
    """
    base = load_convention(name)
    sentences = [_sentence(field, getattr(base, field)) for field in _WORDS]
    for dataset, changes in _PRESETS[name.partition(",")[0]][1].items():
        sentences += [f"On {dataset}: {_sentence(f, v)}" for f, v in changes.items()]
    return tuple(sentences)


def _sentence(field: str, value: str) -> str:
    return _WORDS[field].get(value) or _WORDS[field]["*"].format(value)


_WORDS: Mapping[str, Mapping[str, str]] = {
    "train_void": {
        "void": "Void pixels are not trained on.",
        "background": "Void pixels are trained as background where the data has one.",
    },
    "test_future": {
        "void": "Pixels of classes not learned yet are not scored.",
        "background": "Pixels of classes not learned yet are scored as background.",
    },
    "test_other": {
        "scored": "Background pixels are scored.",
        "void": "Pixels of id 0 are not scored.",
    },
    "test_images": {
        "all": "Every image of the split is scored.",
        "learned": "Images are scored that show a class learned so far.",
    },
    "absent": {
        "skip": "A class that occurs neither in truth nor in prediction is left out of the mean.",
        "zero": "A class that occurs neither in truth nor in prediction counts as zero.",
    },
    "eval_size": {
        "full": "Pixels are compared at every mask's own size.",
        "center512": "Shorter side to 512; the central 512 x 512 of both is compared.",
        "*": "Image and mask are resized to {}, and pixels are compared there.",
    },
    "mean": {
        "with-background": "The headline mean is over every class, background included.",
        "without-background": "The headline mean is over every class but background.",
    },
}

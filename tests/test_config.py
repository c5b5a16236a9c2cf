"""Where a setting comes from, and what happens to one that is not usable."""

import pytest

from edgeinc.config import (
    Layer,
    TrainSettings,
    from_environment,
    from_file,
    from_flags,
    from_sets,
    parse_size,
    resolve,
)
from edgeinc.errors import UsageError


def test_stronger_layers_win_and_every_value_names_its_source(tmp_path, monkeypatch):
    (tmp_path / "fast.toml").write_text("lr = 0.1\nepochs = 3\nbatch_size = 4\nseed = 9\n")
    monkeypatch.setenv("EDGEINC_EPOCHS", "5")
    layers = [
        Layer("step 0", {"lr": 0.5, "accumulate": 2}),
        from_file(tmp_path / "fast.toml"),
        from_environment(),
        from_sets(["batch_size=7"]),
        from_flags({"seed": 1, "lr": None}),
    ]
    settings, sources = resolve(TrainSettings, layers)
    assert settings.accumulate == 2
    assert sources["accumulate"].source == "step 0"
    assert settings.lr == 0.1
    assert sources["lr"].source == str(tmp_path / "fast.toml")
    assert settings.epochs == 5
    assert sources["epochs"].source == "environment"
    assert settings.batch_size == 7
    assert sources["batch_size"].source == "--set"
    assert settings.seed == 1
    assert sources["seed"].source == "flag"
    assert sources["optimizer"].source == "default"


@pytest.mark.parametrize(
    ("item", "message", "way_out"),
    [
        ("lrr=1", "unknown setting 'lrr'", "'lr'"),
        ("lr=-1", "lr = -1 is not usable", "--set"),
        ("epochs=1.5", "epochs = 1.5", "--set"),
        ("epochs=many", "epochs = 'many'", "--set"),
        ("optimizer=rmsprop", "optimizer = 'rmsprop'", "--set"),
        ("precision=int8", "precision = 'int8'", "--set"),
        ("batch_size=0", "batch_size = 0", "--set"),
        ("deterministic=1", "deterministic = 1", "--set"),
    ],
)
def test_unusable_value_is_named_with_its_source(item, message, way_out):
    with pytest.raises(UsageError) as error:
        resolve(TrainSettings, [from_sets([item])])
    assert message in error.value.message
    assert way_out in error.value.hint


def test_1e_3_is_a_number_and_a_bare_word_is_text():
    assert from_sets(["lr=1e-3", "optimizer=sgd", "device=cuda:0"]).values == {
        "lr": 1e-3,
        "optimizer": "sgd",
        "device": "cuda:0",
    }


def test_options_of_plug_ins_stay_in_their_table():
    layer = from_sets(["model.width=0.5", "method.init=fresh", "lr=0.1"])
    settings, _ = resolve(TrainSettings, [layer])
    assert settings.lr == 0.1
    from edgeinc.models.erfnet import ERFNet

    options, sources = resolve(ERFNet.Config, [layer], table="model")
    assert options.width == 0.5
    assert sources["width"].source == "--set"


def test_item_without_a_value_and_broken_files_are_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot read --set lr"):
        from_sets(["lr"])
    with pytest.raises(UsageError, match="no such settings file"):
        from_file(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("lr: 0.1")
    with pytest.raises(UsageError, match="is not TOML"):
        from_file(tmp_path / "bad.toml")


def test_size_is_height_by_width():
    assert parse_size("144x192") == (144, 192)
    for bad in ("144", "144x", "x192", "0x10", "a x b", "144×192"):
        with pytest.raises(UsageError, match="cannot read size"):
            parse_size(bad)


def test_every_setting_is_documented():
    from dataclasses import fields

    text = TrainSettings.__doc__
    assert all(f"{f.name}:" in text for f in fields(TrainSettings))

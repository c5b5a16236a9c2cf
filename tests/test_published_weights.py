"""A network someone else trained becomes step 0 of a run: same logits, nothing lost silently."""

import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402

import edgeinc  # noqa: E402
from edgeinc.cli import main  # noqa: E402
from edgeinc.data import open_dataset  # noqa: E402
from edgeinc.data.cityscapes import LABELS as CITYSCAPES  # noqa: E402
from edgeinc.errors import DataError, EdgeincError, UsageError  # noqa: E402
from edgeinc.methods.finetune import Finetune  # noqa: E402
from edgeinc.models import create  # noqa: E402
from edgeinc.models._pretrained import read_weights  # noqa: E402
from edgeinc.progress import SILENT  # noqa: E402
from edgeinc.report import report  # noqa: E402
from edgeinc.runs import open_run, sha256  # noqa: E402
from edgeinc.runtimes.torch import TorchSession  # noqa: E402
from edgeinc.schema import ImportResult, RunInfo, from_json, to_json  # noqa: E402
from edgeinc.training import execute  # noqa: E402

SMALL = 0.125
SMALL_SET = (f"model.width={SMALL}",)
NAMES = "road,sky,building"
CITY_MEAN, CITY_STD = (0.3257, 0.3690, 0.3223), (0.2112, 0.2148, 0.2115)


# ------------------------------------------------------------------------------ the sources
# Written here from the papers and the releases' names, and sharing no code with edgeinc.


class SourceDown(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(i, o - i, 3, 2, 1), nn.BatchNorm2d(o, eps=1e-3)

    def forward(self, x):
        return self.bn(torch.cat([self.conv(x), nn.MaxPool2d(2, 2)(x)], 1)).relu()


class SourceBlock(nn.Module):
    def __init__(self, c, dilation):
        super().__init__()
        self.conv3x1_1 = nn.Conv2d(c, c, (3, 1), 1, (1, 0))
        self.conv1x3_1 = nn.Conv2d(c, c, (1, 3), 1, (0, 1))
        self.bn1 = nn.BatchNorm2d(c, eps=1e-3)
        self.conv3x1_2 = nn.Conv2d(c, c, (3, 1), 1, (dilation, 0), (dilation, 1))
        self.conv1x3_2 = nn.Conv2d(c, c, (1, 3), 1, (0, dilation), (1, dilation))
        self.bn2 = nn.BatchNorm2d(c, eps=1e-3)

    def forward(self, x):
        y = self.bn1(self.conv1x3_1(self.conv3x1_1(x).relu())).relu()
        return (self.bn2(self.conv1x3_2(self.conv3x1_2(y).relu())) + x).relu()


class SourceUp(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv = nn.ConvTranspose2d(i, o, 3, 2, 1, 1)
        self.bn = nn.BatchNorm2d(o, eps=1e-3)

    def forward(self, x):
        return self.bn(self.conv(x)).relu()


class SourceERFNet(nn.Module):
    """ERFNet as table I of the paper lists it, in the names of the PyTorch release."""

    def __init__(self, outputs, width=1.0):
        super().__init__()
        a, b, c = max(8, int(16 * width)), max(16, int(64 * width)), max(32, int(128 * width))
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.initial_block = SourceDown(3, a)
        blocks = [SourceDown(a, b), *(SourceBlock(b, 1) for _ in range(5)), SourceDown(b, c)]
        blocks += [SourceBlock(c, d) for d in (2, 4, 8, 16, 2, 4, 8, 16)]
        self.encoder.layers = nn.ModuleList(blocks)
        self.encoder.output_conv = nn.Conv2d(c, outputs, 1)
        blocks = [SourceUp(c, b), SourceBlock(b, 1), SourceBlock(b, 1)]
        blocks += [SourceUp(b, a), SourceBlock(a, 1), SourceBlock(a, 1)]
        self.decoder.layers = nn.ModuleList(blocks)
        self.decoder.output_conv = nn.ConvTranspose2d(a, outputs, 2, 2)

    def forward(self, x):
        x = self.encoder.initial_block(x)
        for layer in (*self.encoder.layers, *self.decoder.layers):
            x = layer(x)
        return self.decoder.output_conv(x)


class SourceConv(nn.Module):
    def __init__(self, i, o, kernel=3, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(i, o, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(o)

    def forward(self, x):
        return self.bn(self.conv(x)).relu()


class SourceBasic(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(i, o, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(o)
        self.conv2 = nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(o)
        self.downsample = None
        if i != o or stride != 1:
            shortcut = nn.Conv2d(i, o, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(o))

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class SourceResNet(nn.Module):
    def __init__(self, widths):
        super().__init__()
        a, b, c, d = widths
        self.conv1, self.bn1 = nn.Conv2d(3, a, 7, 2, 3, bias=False), nn.BatchNorm2d(a)
        self.layer1 = nn.Sequential(SourceBasic(a, a, 1), SourceBasic(a, a, 1))
        self.layer2 = nn.Sequential(SourceBasic(a, b, 2), SourceBasic(b, b, 1))
        self.layer3 = nn.Sequential(SourceBasic(b, c, 2), SourceBasic(c, c, 1))
        self.layer4 = nn.Sequential(SourceBasic(c, d, 2), SourceBasic(d, d, 1))

    def forward(self, x):
        x = nn.MaxPool2d(3, 2, 1)(self.bn1(self.conv1(x)).relu())
        at16 = self.layer3(self.layer2(self.layer1(x)))
        return at16, self.layer4(at16)


class SourceArm(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv = SourceConv(i, o)
        self.conv_atten, self.bn_atten = nn.Conv2d(o, o, 1, bias=False), nn.BatchNorm2d(o)

    def forward(self, x):
        x = self.conv(x)
        mean = F.avg_pool2d(x, x.shape[2:])
        return x * self.bn_atten(self.conv_atten(mean)).sigmoid()


class SourceFusion(nn.Module):
    def __init__(self, i, o, form):
        super().__init__()
        self.convblk = SourceConv(i, o, 1)
        if form == "norm":
            self.conv, self.bn = nn.Conv2d(o, o, 1, bias=False), nn.BatchNorm2d(o)
        else:
            self.conv1 = nn.Conv2d(o, o // 4, 1, bias=False)
            self.conv2 = nn.Conv2d(o // 4, o, 1, bias=False)

    def forward(self, spatial, context):
        x = self.convblk(torch.cat([spatial, context], 1))
        y = F.avg_pool2d(x, x.shape[2:])
        y = self.bn(self.conv(y)) if hasattr(self, "conv") else self.conv2(self.conv1(y).relu())
        return x + x * y.sigmoid()


class SourceOutput(nn.Module):
    def __init__(self, i, hidden, outputs, bias):
        super().__init__()
        self.conv = SourceConv(i, hidden)
        self.conv_out = nn.Conv2d(hidden, outputs, 1, bias=bias)

    def forward(self, x):
        return self.conv_out(self.conv(x))


class SourceBiSeNet(nn.Module):
    """BiSeNet v1 with ResNet-18, in CoinCheung's names.

    Form `norm` is the published one; `squeeze` is the older one, without a bias anywhere and with
    aligned corners.
    """

    def __init__(self, outputs, width=1.0, form="norm"):
        super().__init__()
        a, b, c, d = (max(8, int(width * n)) for n in (64, 128, 256, 512))
        self.form = form
        self.cp, self.sp = nn.Module(), nn.Module()
        self.cp.resnet = SourceResNet((max(16, a), b, c, d))
        self.cp.arm16, self.cp.arm32 = SourceArm(c, b), SourceArm(d, b)
        self.cp.conv_head32, self.cp.conv_head16 = SourceConv(b, b), SourceConv(b, b)
        self.cp.conv_avg = SourceConv(d, b, 1)
        self.sp.conv1 = SourceConv(3, a, 7, 2)
        self.sp.conv2, self.sp.conv3 = SourceConv(a, a, 3, 2), SourceConv(a, a, 3, 2)
        self.sp.conv_out = SourceConv(a, b, 1)
        self.ffm = SourceFusion(2 * b, c, form)
        bias = form == "norm"
        self.conv_out = SourceOutput(c, c, outputs, bias)
        self.conv_out16 = SourceOutput(b, a, outputs, bias)
        self.conv_out32 = SourceOutput(b, a, outputs, bias)

    def forward(self, x):
        cp, sp = self.cp, self.sp
        at16, at32 = cp.resnet(x)
        mean = cp.conv_avg(F.avg_pool2d(at32, at32.shape[2:]))
        up = F.interpolate(cp.arm32(at32) + mean, size=at16.shape[2:], mode="nearest")
        context16 = cp.conv_head32(up)
        size8 = [2 * n for n in at16.shape[2:]]
        up = F.interpolate(cp.arm16(at16) + context16, size=size8, mode="nearest")
        context8 = cp.conv_head16(up)
        spatial = sp.conv_out(sp.conv3(sp.conv2(sp.conv1(x))))
        outs = (
            self.conv_out(self.ffm(spatial, context8)),
            self.conv_out16(context8),
            self.conv_out32(context16),
        )
        align = self.form == "squeeze"
        return tuple(
            F.interpolate(out, size=x.shape[2:], mode="bilinear", align_corners=align)
            for out in outs
        )


def randomised(source, seed=0):
    """Weights, statistics, scales and shifts that no wrong mapping gets right by luck."""
    torch.manual_seed(seed)
    for module in source.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, 0, 0.1)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 0.8)
            nn.init.normal_(module.bias, 0, 0.2)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.7, 2)
            module.num_batches_tracked.fill_(7)
    return source.eval()


def images(height, width, count=2):
    rng = np.random.default_rng(height)
    return torch.from_numpy(rng.integers(0, 256, (count, height, width, 3), np.uint8))


def source_input(batch, mean, std):
    """What torchvision's ToTensor and Normalize make of an image."""
    x = batch.permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def network(run, step=0):
    return TorchSession(open_run(run).folder(step), device="cpu", threads=1).model


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """On a machine that is busy with other tests, torch's threads would wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def erfnet(tmp_path_factory):
    """A small network in the release's names, with three outputs, and its file."""
    file = tmp_path_factory.mktemp("release") / "erfnet.pth"
    source = randomised(SourceERFNet(3, SMALL))
    torch.save(source.state_dict(), file)
    return source, file


@pytest.fixture(scope="module")
def bisenet(tmp_path_factory):
    file = tmp_path_factory.mktemp("release") / "bisenet.pth"
    source = randomised(SourceBiSeNet(3, SMALL), seed=6)  # decides for every class somewhere
    torch.save(source.state_dict(), file)
    return source, file


def take(file, tmp_path, **arguments):
    """Import a small ERFNet into tmp_path/run unless told otherwise."""
    given = {"model": "erfnet", "classes": NAMES, "size": (32, 64), "sets": SMALL_SET}
    given |= {"run": tmp_path / "run", **arguments}
    return edgeinc.import_weights(file, **given)


# ------------------------------------------------------------------------------ the same logits


def test_erfnet_release_with_void_as_last_output_gives_the_logits_of_its_19_classes(tmp_path):
    source = randomised(SourceERFNet(20))
    state = {f"module.{name}": tensor for name, tensor in source.state_dict().items()}
    torch.save(state, tmp_path / "erfnet_pretrained.pth")
    result = edgeinc.import_weights(
        tmp_path / "erfnet_pretrained.pth",
        model="erfnet",
        classes="cityscapes",
        run=tmp_path / "run",
    )
    model = network(result.run)
    for size in ((64, 96), (40, 72)):
        batch = images(*size)
        with torch.inference_mode():
            expected = source(source_input(batch, (0, 0, 0), (1, 1, 1)))[:, :19]
            found = model(model.normalise(batch)).logits
        assert expected.std() > 0.1
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert result.dropped == {
        "encoder.output_conv.weight": "classifies in the training of the encoder alone",
        "encoder.output_conv.bias": "classifies in the training of the encoder alone",
        "decoder.output_conv.weight, output 19": "void, which cityscapes does not score",
        "decoder.output_conv.bias, output 19": "void, which cityscapes does not score",
    }
    assert result.matched + 2 == len(state)
    assert (result.mean, result.std) == ((0, 0, 0), (1, 1, 1))
    assert [(c.id, c.name, c.color, c.step) for c in result.step.classes] == [
        (label.id, label.name, label.color, 0) for label in CITYSCAPES
    ]
    assert result.size == (512, 1024)


@pytest.mark.parametrize("form", ["norm", "squeeze"])
def test_bisenet_release_gives_the_logits_of_all_three_outputs(tmp_path, form):
    source = randomised(SourceBiSeNet(4, form=form))
    torch.save(source.state_dict(), tmp_path / "model_final.pth")
    result = edgeinc.import_weights(
        tmp_path / "model_final.pth", model="bisenet", classes="a,b,c,d", run=tmp_path / "run"
    )
    model = network(result.run)
    model.freeze_bn(stats=True, affine=False)
    for size in ((64, 96), (96, 64)):
        batch = images(*size)
        with torch.inference_mode():
            expected = source(source_input(batch, CITY_MEAN, CITY_STD))
            x = model.normalise(batch)
            decided, trained = model.eval()(x), model.train()(x)
        assert all(out.std() > 0.05 for out in expected)
        for found, wanted in zip((decided.logits, *trained.aux), expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert result.matched == len(source.state_dict())
    assert result.dropped == {}
    assert (result.mean, result.std) == (CITY_MEAN, CITY_STD)
    without_bias = {
        *("fuse.squeeze.bias", "fuse.excite.bias"),
        *("classifier.head.0.bias", "aux16.head.0.bias", "aux32.head.0.bias"),
    }
    assert set(result.filled) == (without_bias if form == "squeeze" else set())
    options = open_run(result.run).info.model_options
    assert options["fusion"] == ("norm" if form == "norm" else "paper")
    assert options["align_corners"] is (form == "squeeze")


def test_a_training_checkpoint_and_a_flat_file_give_the_same_weights(erfnet, tmp_path):
    source, file = erfnet
    wrapped = {
        "epoch": 3,
        "arch": "ERFNet(...)",
        "best_acc": 0.5,
        "state_dict": {f"module.{k}": v for k, v in source.state_dict().items()},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 5e-4}]},
    }
    torch.save(wrapped, tmp_path / "model_best.pth.tar")
    one, two = (
        take(path, tmp_path, run=tmp_path / "runs" / path.stem)
        for path in (file, tmp_path / "model_best.pth.tar")
    )
    assert one.step.weights_sha256 == two.step.weights_sha256
    for key in ("model", "model_state_dict"):
        torch.save({key: source.state_dict(), "step": 1}, tmp_path / "x.pth")
        assert read_weights(tmp_path / "x.pth").keys() == source.state_dict().keys()


def test_counters_that_old_files_do_not_have_are_no_missing_tensors(erfnet, tmp_path):
    source, _ = erfnet
    state = source.state_dict()
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    result = take(tmp_path / "old.pth", tmp_path)
    assert result.matched + len(result.dropped) == len(old)
    assert result.notes == ("39 counters of training batches start at 0",)


def test_own_weights_of_several_steps_become_one_step(tmp_path):
    torch.manual_seed(0)
    model = randomised(create("bisenet", [2, 1], {"width": SMALL}))
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    result = take(tmp_path / "weights.safetensors", tmp_path, model="bisenet")
    assert result.notes == ("the classifiers of 2 steps were joined: they are all step 0 now",)
    assert result.matched == len(model.state_dict())
    taken = network(result.run)
    assert taken.steps == (3,)
    batch = images(32, 64)
    with torch.inference_mode():
        expected = model(model.normalise(batch)).logits
        assert torch.equal(taken(taken.normalise(batch)).logits, expected)
    assert result.mean == (0.485, 0.456, 0.406)


# ------------------------------------------------------------------------------ nothing is silent


def altered(source, tmp_path, change):
    state = dict(source.state_dict())
    change(state)
    torch.save(state, tmp_path / "altered.pth")
    return tmp_path / "altered.pth"


def test_missing_unexpected_and_misshapen_tensors_are_named_in_the_files_words(erfnet, tmp_path):
    def change(state):
        del state["encoder.layers.3.bn2.weight"]
        state["decoder.layers.9.conv.weight"] = torch.zeros(1)
        state["decoder.layers.0.bn.bias"] = torch.zeros(5)

    with pytest.raises(EdgeincError) as error:
        take(altered(erfnet[0], tmp_path, change), tmp_path)
    assert error.value.message.endswith(
        "does not fit the network: 1 missing (encoder.layers.3.bn2.weight); "
        "1 unexpected (decoder.layers.9.conv.weight); "
        "1 of another shape (decoder.layers.0.bn.bias (5,) in the file, (16,) in the network)"
    )
    assert not (tmp_path / "run").exists()


def test_a_file_without_the_training_outputs_is_refused(bisenet, tmp_path):
    def change(state):
        for name in [n for n in state if n.startswith(("conv_out16", "conv_out32"))]:
            del state[name]

    with pytest.raises(EdgeincError, match=r"14 missing \(conv_out16\.") as error:
        take(altered(bisenet[0], tmp_path, change), tmp_path, model="bisenet")
    assert "training-only outputs" in error.value.hint


def test_a_classifier_that_lost_its_bias_is_not_taken_for_the_older_form(bisenet, tmp_path):
    with pytest.raises(EdgeincError, match=r"missing \(conv_out\.conv_out\.bias\)"):
        take(
            altered(bisenet[0], tmp_path, lambda s: s.pop("conv_out.conv_out.bias")),
            tmp_path,
            model="bisenet",
        )


def test_values_that_are_not_finite_are_refused(erfnet, tmp_path):
    def change(state):
        state["decoder.output_conv.bias"] = torch.tensor([0.0, float("nan"), 0.0])

    with pytest.raises(EdgeincError, match=r"decoder\.output_conv\.bias in .* not finite"):
        take(altered(erfnet[0], tmp_path, change), tmp_path)


@pytest.mark.parametrize("classes", ["road,sky", "road,sky,car,bus", "camvid"])
def test_another_number_of_classes_than_outputs_names_both(erfnet, tmp_path, classes):
    count = 11 if classes == "camvid" else len(classes.split(","))
    with pytest.raises(UsageError, match=rf"has 3 outputs and --classes names {count} classes"):
        take(erfnet[1], tmp_path, classes=classes)


def test_one_output_too_many_is_void_for_cityscapes_only(tmp_path):
    torch.save(SourceERFNet(12, SMALL).state_dict(), tmp_path / "x.pth")
    with pytest.raises(UsageError, match="has 12 outputs and --classes names 11 classes"):
        take(tmp_path / "x.pth", tmp_path, classes="camvid")


def test_a_mistyped_dataset_is_suggested(erfnet, tmp_path):
    with pytest.raises(UsageError, match="1 class") as error:
        take(erfnet[1], tmp_path, classes="cityscape")
    assert "did you mean 'cityscapes'?" in error.value.hint


def test_the_file_of_another_network_says_which(erfnet, bisenet, tmp_path):
    with pytest.raises(UsageError, match="CoinCheung's BiSeNet v1, not erfnet") as error:
        take(bisenet[1], tmp_path)
    assert error.value.hint == "use --model bisenet"
    with pytest.raises(UsageError, match="ERFNet PyTorch release, not bisenet") as error:
        take(erfnet[1], tmp_path, model="bisenet")
    assert error.value.hint == "use --model erfnet"


def test_a_bare_resnet_is_for_init(tmp_path):
    torch.save(SourceResNet((8, 16, 32, 64)).state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(UsageError, match="holds a bare ResNet") as error:
        take(tmp_path / "resnet18.pth", tmp_path, model="bisenet")
    assert f"--init {tmp_path / 'resnet18.pth'}" in error.value.hint


def test_names_of_no_known_release_are_shown(tmp_path):
    torch.save({f"stage.{i}.weight": torch.zeros(1) for i in range(5)}, tmp_path / "x.pth")
    with pytest.raises(UsageError) as error:
        take(tmp_path / "x.pth", tmp_path)
    assert error.value.message.endswith(
        "not known for erfnet: stage.0.weight, stage.1.weight, stage.2.weight, and 2 more"
    )


class Malicious:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_a_file_that_asks_for_code_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"state_dict": {}, "model": Malicious()}, tmp_path / "evil.pth")
    with pytest.raises(EdgeincError, match=r"evil\.pth does not load as plain tensors") as error:
        take(tmp_path / "evil.pth", tmp_path)
    assert "\n" not in error.value.message
    assert "weights_only" not in error.value.message
    assert "never run" not in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".legacy.pth"])
@pytest.mark.parametrize("keep", [0, 7, 5000])
def test_a_damaged_file_is_one_clear_line(erfnet, tmp_path, suffix, keep):
    state, file = erfnet[0].state_dict(), tmp_path / f"damaged{suffix}"
    if suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=suffix == ".pth")
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(EdgeincError, match=r"damaged.* does not load as plain tensors") as error:
        read_weights(file)
    assert "\n" not in error.value.message


@pytest.mark.parametrize(
    "content", [{}, [torch.zeros(1)], {"a": 1}, {3: torch.zeros(1)}, torch.zeros(2)], ids=repr
)
def test_a_file_that_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(EdgeincError, match=r"x\.pth is not a state dict of tensors"):
        read_weights(tmp_path / "x.pth")


# ------------------------------------------------------------------------------ what it means


def test_classes_may_be_a_file_a_folder_datasets_table_or_a_dataset(erfnet, street_data, tmp_path):
    (tmp_path / "names.txt").write_text("\nroad surface\n sky \r\ncafé\n", encoding="utf-8")
    listed = take(erfnet[1], tmp_path, classes=str(tmp_path / "names.txt"))
    assert listed.step.new_classes == ("road surface", "sky", "café")
    # The palette of VOC, less its black.
    assert [c.color for c in listed.step.classes] == [(128, 0, 0), (0, 128, 0), (128, 128, 0)]

    street = open_dataset(street_data)
    torch.save(SourceERFNet(len(street.labels), SMALL).state_dict(), tmp_path / "s.pth")
    for given in (street_data / "classes.toml", street_data):
        result = take(tmp_path / "s.pth", tmp_path, classes=str(given), overwrite=True)
        assert [(c.id, c.name, c.color) for c in result.step.classes] == [
            (label.id, label.name, label.color) for label in street.labels
        ]
    assert result.step.background == "none"

    torch.save(SourceERFNet(11, SMALL).state_dict(), tmp_path / "c.pth")
    result = take(tmp_path / "c.pth", tmp_path, classes="camvid", size=None, overwrite=True)
    assert result.step.new_classes[:2] == ("sky", "building")
    assert result.size == (360, 480)


def test_a_real_background_is_the_first_output_or_none_of_them(tmp_path):
    for outputs in (21, 20):
        torch.save(SourceERFNet(outputs, SMALL).state_dict(), tmp_path / f"{outputs}.pth")
    real = take(tmp_path / "21.pth", tmp_path, classes="voc")
    assert (real.step.background, real.step.classes[0].name) == ("real", "background")
    with pytest.raises(UsageError, match="20 outputs and --classes names 21") as error:
        take(tmp_path / "20.pth", tmp_path, classes="voc", overwrite=True)
    assert "--background none" in error.value.hint
    none = take(
        tmp_path / "20.pth", tmp_path, classes="voc", background="none", run=tmp_path / "none"
    )
    assert none.step.background == "none"
    assert (none.step.classes[0].id, none.step.classes[0].name) == (0, "aeroplane")
    assert open_run(tmp_path / "run").step().background == "real", "a refusal touches nothing"


def test_a_list_may_begin_with_a_background(erfnet, tmp_path):
    result = take(erfnet[1], tmp_path, background="real")
    assert result.step.background == "real"
    assert result.step.classes[0].color == (0, 0, 0)
    with pytest.raises(UsageError, match="camvid has no background"):
        take(erfnet[1], tmp_path, classes="camvid", background="real", run=tmp_path / "b")
    with pytest.raises(UsageError, match="background virtual"):
        take(erfnet[1], tmp_path, background="virtual", run=tmp_path / "b")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("road,,sky", "an empty class name"),
        ("road,sky,road", "'road' is named twice"),
        ("gone/names.txt", "no such file of class names: gone/names.txt"),
        ("car/van,,sky", "an empty class name"),
        ("folder", "every copy of folder has classes of its own"),
        (",".join(f"c{i}" for i in range(256)), "256 classes do not fit"),
    ],
)
def test_a_list_of_classes_that_cannot_be_is_refused(erfnet, tmp_path, classes, message):
    with pytest.raises(UsageError, match=message):
        take(erfnet[1], tmp_path, classes=classes)


def test_a_binary_file_of_names_is_one_clear_line(erfnet, tmp_path):
    (tmp_path / "names").write_bytes(b"\xff\xfe\x00road")
    with pytest.raises(DataError, match="names is not UTF-8 text"):
        take(erfnet[1], tmp_path, classes=str(tmp_path / "names"))


def test_size_is_that_of_the_data_else_that_of_the_release(erfnet, street_data, tmp_path):
    assert take(erfnet[1], tmp_path, size=None).size == (512, 1024)
    result = take(erfnet[1], tmp_path, size=None, data=street_data, overwrite=True)
    assert result.size == (64, 96)
    with pytest.raises(UsageError, match="size 30x64 is not divisible by 8"):
        take(erfnet[1], tmp_path, size=(30, 64), overwrite=True)


def test_normalisation_given_is_what_the_run_does(erfnet, tmp_path):
    source, file = erfnet
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
    result = take(file, tmp_path, mean=mean, std=std)
    assert (result.mean, result.std, result.normalisation) == (mean, std, "given")
    assert open_run(result.run).info.mean == (127.5, 102.0, 76.5)
    batch = images(32, 64)
    with torch.inference_mode():
        expected = source(source_input(batch, mean, std))
        model = network(result.run)
        torch.testing.assert_close(
            model(model.normalise(batch)).logits, expected, atol=1e-5, rtol=0
        )


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((123.675, 116.28, 103.53), (0.2, 0.2, 0.2), "--mean 123.675,116.28,103.53 is not for"),
        ((0.5, 0.5, 0.5), (58.4, 57.1, 57.4), "--std 58.4,57.1,57.4 is not for"),
        ((0.5, 0.5, 0.5), (0.0, 0.2, 0.2), "--std 0,0.2,0.2 is not for"),
        ((float("nan"), 0.5, 0.5), (0.2, 0.2, 0.2), "--mean nan,0.5,0.5 is not for"),
        ((0.5, 0.5), (0.2, 0.2, 0.2), "--mean 0.5,0.5 is not three values"),
        ((0.5, 0.5, 0.5), None, "mean and std go together"),
    ],
)
def test_normalisation_that_cannot_be_is_refused(erfnet, tmp_path, mean, std, message):
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        take(erfnet[1], tmp_path, mean=mean, std=std)
    if "not for" in message:
        assert "123.675 is 0.485" in error.value.hint
    assert not (tmp_path / "run").exists()


def test_a_run_from_before_normalisation_was_recorded_has_imagenets():
    document = json.loads(to_json(RunInfo("erfnet", {}, (64, 96), "2026-01-01")))
    del document["mean"], document["std"]
    info = from_json(RunInfo, json.dumps(document), source="run.json")
    assert info.normalisation == ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


# ------------------------------------------------------------------------------ the run


def test_the_run_says_where_it_came_from(erfnet, street_data, tmp_path):
    result = take(erfnet[1], tmp_path, data=street_data)
    step = open_run(result.run).step()
    assert (step.index, step.status, step.method, step.images) == (0, "done", "import", 0)
    assert step.method_options["sha256"] == result.sha256 == sha256(erfnet[1])
    assert step.data.root == str(street_data)
    assert step.command.startswith(f"edgeinc import {erfnet[1]} --model erfnet --classes road,sky")
    assert step == result.step
    assert sha256(open_run(result.run).weights(0)) == step.weights_sha256


def test_an_existing_run_is_kept_unless_told_and_whatever_goes_wrong(erfnet, tmp_path):
    run = take(erfnet[1], tmp_path).run
    before = {p: p.read_bytes() for p in open_run(run).path.rglob("*.*") if p.is_file()}
    with pytest.raises(UsageError, match="already exists") as error:
        take(erfnet[1], tmp_path)
    assert "--overwrite" in error.value.hint
    with pytest.raises(UsageError, match="has 3 outputs"):
        take(erfnet[1], tmp_path, classes="a,b", overwrite=True)
    own = open_run(run).weights(0)
    with pytest.raises(UsageError, match="lies in the run it would become"):
        take(own, tmp_path, overwrite=True)
    assert {p: p.read_bytes() for p in before} == before
    assert take(erfnet[1], tmp_path, classes="a,b,c", overwrite=True).step.new_classes[0] == "a"


def test_settings_of_training_are_not_taken(erfnet, tmp_path):
    with pytest.raises(UsageError, match="--set lr is a setting of training"):
        take(erfnet[1], tmp_path, sets=["lr=1"])
    with pytest.raises(UsageError, match=r"unknown setting 'model\.widht'"):
        take(erfnet[1], tmp_path, sets=["model.widht=1"])


QUICK = {"epochs": 1, "batch_size": 4, "limit": 4, "precision": "fp32", "threads": 1, "workers": 0}


@pytest.mark.parametrize("name", ["erfnet", "bisenet"])
def test_extend_keeps_what_the_imported_network_says(request, street_data, tmp_path, name):
    source, file = request.getfixturevalue(name)
    result = take(file, tmp_path, model=name, size=(64, 96), data=street_data)
    edgeinc.extend(
        result.run, new_classes=["car"], method="cil", freeze_bn_stats=True, lr=1e-12, **QUICK
    )
    step = open_run(result.run).step()
    assert (step.index, step.parent_sha256) == (1, result.step.weights_sha256)
    mean, std = ((0,) * 3, (1,) * 3) if name == "erfnet" else (CITY_MEAN, CITY_STD)
    batch, model = images(64, 96), network(result.run, 1)
    with torch.inference_mode():
        expected = source(source_input(batch, mean, std))
        expected = expected if name == "erfnet" else expected[0]
        found = model(model.normalise(batch)).logits
    assert found.shape[1] == 4
    torch.testing.assert_close(found[:, :3], expected, atol=1e-4, rtol=0)


def test_student_and_teacher_see_images_as_the_imported_network_does(
    bisenet, street_data, tmp_path, monkeypatch
):
    result = take(bisenet[1], tmp_path, model="bisenet", size=(64, 96), data=street_data)
    seen = []

    def fit(job, progress):
        seen.extend([job.model, job.teacher])
        return 0.0

    monkeypatch.setattr(execute, "fit", fit)
    monkeypatch.setattr(execute, "score", lambda *given: None)
    edgeinc.extend(result.run, new_classes=["car"], method="cil", **QUICK)
    batch = images(32, 64)
    for model in seen:
        torch.testing.assert_close(
            model.normalise(batch), source_input(batch, CITY_MEAN, CITY_STD), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("name", [pytest.param("erfnet", marks=pytest.mark.slow), "bisenet"])
def test_the_exported_file_decides_as_the_source(request, tmp_path, name):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    source, file = request.getfixturevalue(name)
    result = take(file, tmp_path, model=name)
    exported = edgeinc.export(result.run)
    assert exported.card.parity.passed
    assert "the run knows no data" in exported.note
    mean, std = ((0,) * 3, (1,) * 3) if name == "erfnet" else (CITY_MEAN, CITY_STD)
    assert exported.card.mean == pytest.approx([255 * m for m in mean])
    assert exported.card.std == pytest.approx([255 * s for s in std])
    batch = images(32, 64, count=4)
    with torch.inference_mode():
        logits = source(source_input(batch, mean, std))
    expected = (logits if name == "erfnet" else logits[0]).argmax(1).numpy()
    assert len(np.unique(expected)) > 1
    with edgeinc.open_artifact(exported.path) as session:
        assert (session.run(batch.numpy()) == expected).mean() > 0.999


def test_without_data_every_command_says_so_or_goes_on(erfnet, street_data, tmp_path):
    run = take(erfnet[1], tmp_path).run
    for work in (
        lambda: edgeinc.extend(run, new_classes=["car"], **QUICK),
        lambda: edgeinc.evaluate(run),
    ):
        with pytest.raises(UsageError, match="published weights and knows no data") as error:
            work()
        assert "--data" in error.value.hint
    assert edgeinc.evaluate(run, data=street_data).images == 4
    rows = edgeinc.bench(run, runtimes=["torch"], duration=0.1).rows
    assert all(row.fps for row in rows)
    page = Path(report(run).path).read_text(encoding="utf-8")
    assert open_run(run).step().command in html.unescape(page)


def test_extending_warns_when_the_method_should_have_prepared_at_step_0(
    erfnet, street_data, base_run, tmp_path, monkeypatch
):
    monkeypatch.setattr(Finetune, "prepares", "its classifier of nothing starts at random")
    said = []
    monkeypatch.setattr(type(SILENT), "message", lambda self, text: said.append(text))
    run = take(erfnet[1], tmp_path / "imported", data=street_data).run
    for folder in (run, base_run):
        edgeinc.extend(folder, new_classes=["car"], method="finetune", dry_run=True, **QUICK)
    assert [text for text in said if "imported" in text] == [
        "method 'finetune' could not prepare: step 0 was imported; "
        "its classifier of nothing starts at random"
    ]


def test_a_run_from_before_an_option_of_its_network_existed_still_resumes(base_run, street_data):
    path = base_run / "run.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["model_options"]["dropout"]
    path.write_text(json.dumps(document), encoding="utf-8")
    again = edgeinc.train(
        street_data,
        classes=["road", "sky", "building"],
        size=(64, 96),
        run=base_run,
        sets=SMALL_SET,
        resume=True,
    )
    assert again.steps == open_run(base_run).steps


# ------------------------------------------------------------------------------ the command


def run_command(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return end.value.code, *capsys.readouterr()


def test_the_command_prints_the_account(erfnet, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(erfnet[1], "net.pth")
    words = ["import", "net.pth", "--model", "erfnet", "--classes", NAMES, "--size", "32x64"]
    words += ["--set", SMALL_SET[0]]
    code, out, err = run_command(capsys, *words)
    assert code == 0, err
    tensors = len(load_file(tmp_path / "runs/net-erfnet/step-0/weights.safetensors"))
    for text in (
        f"{tensors} matched, 2 dropped",
        "encoder.output_conv.weight",
        "mean 0, 0, 0, std 1, 1, 1",
        "road, sky, building",
        "run runs/net-erfnet",
    ):
        assert text in out
    assert "next: edgeinc eval runs/net-erfnet --data NAME" in err
    code, out, _ = run_command(capsys, *words, "--overwrite", "--json")
    assert code == 0
    document = from_json(ImportResult, out, source="stdout")
    assert document.matched == tensors
    assert document.step.method == "import"


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (("--mean", "123.675,116.28,103.53", "--std", "0.2,0.2,0.2"), "123.675 is 0.485"),
        (("--mean", "a,b,c", "--std", "1,1,1"), "cannot read --mean a,b,c"),
        (("--size", "30x64"), "--size 32x64"),
        (("--background", "some"), "background some"),
    ],
)
def test_a_flag_that_cannot_be_ends_with_two(erfnet, tmp_path, monkeypatch, capsys, extra, said):
    monkeypatch.chdir(tmp_path)
    words = ["import", erfnet[1], "--model", "erfnet", "--classes", NAMES, *extra]
    code, out, err = run_command(capsys, *words)
    assert (code, out) == (2, "")
    assert said in err

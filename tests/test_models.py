"""Facts of single networks that papers or published weights fix."""

import subprocess
import sys

import pytest
import torch

from edgeinc.errors import EdgeincError, UsageError
from edgeinc.models import create
from edgeinc.models._pretrained import read_weights


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("classes", [1, 12, 19])
def test_erfnet_has_the_papers_parameters(classes):
    assert parameters(create("erfnet", [classes])) == 2_062_956 + 64 * classes + classes


def test_erfnet_has_39_batch_norms_with_eps_1e_3():
    norms = [m for m in create("erfnet", [3]).modules() if isinstance(m, torch.nn.BatchNorm2d)]
    # 29 in the encoder: 3 downsamplers, 13 blocks of two. 10 in the decoder: 2 + 4 blocks of two.
    assert len(norms) == 39
    assert {m.eps for m in norms} == {1e-3}


def test_erfnet_classifier_has_the_classes_on_axis_1():
    model = create("erfnet", [3, 2])
    assert model.head.fused().weight.shape == (16, 5, 2, 2)


@pytest.mark.parametrize("depth", [18, 50, 101])
def test_bisenet_backbone_has_the_parameters_of_the_published_resnet(depth):
    published = {18: 11_689_512, 50: 25_557_032, 101: 44_549_160}[
        depth
    ]  # torchvision, 1000 classes
    features = {18: 512, 50: 2048, 101: 2048}[depth]
    model = create("bisenet", [2], {"depth": depth})
    assert parameters(model.backbone) == published - (features * 1000 + 1000)


def torchvision_like(depth):
    """A state dict with torchvision's names: the backbone's own plus the classifier `fc`."""
    model = create("bisenet", [2], {"depth": depth})
    state = {
        k: torch.randn_like(v.float()).to(v.dtype) for k, v in model.backbone.state_dict().items()
    }
    return {**state, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


def test_backbone_takes_torchvision_names(tmp_path):
    state = torchvision_like(18)
    for key in (
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.conv1.weight",
        "layer4.1.bn2.bias",
        "layer2.0.downsample.0.weight",
    ):
        assert key in state, "torchvision's ResNet-18 has this key"
    torch.save(state, tmp_path / "resnet18.pth")
    model = create("bisenet", [2])
    count = model.load_backbone(read_weights(tmp_path / "resnet18.pth"))
    assert count == len(state) - 2
    assert torch.equal(model.backbone.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])


def test_backbone_of_another_depth_is_refused_by_name(tmp_path):
    torch.save(torchvision_like(18), tmp_path / "resnet18.pth")
    with pytest.raises(UsageError, match=r"layer1\.0\.conv1\.weight has shape \(64, 64, 3, 3\)"):
        create("bisenet", [2], {"depth": 50}).load_backbone(read_weights(tmp_path / "resnet18.pth"))


def test_erfnet_has_no_backbone_to_initialise():
    with pytest.raises(UsageError, match="no ResNet backbone"):
        create("erfnet", [2]).load_backbone({})


class Malicious:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_weights_that_need_pickle_are_refused_and_not_run(tmp_path, capsys):
    torch.save({"weight": Malicious()}, tmp_path / "evil.pth")
    with pytest.raises(EdgeincError, match=r"evil\.pth does not load as plain tensors"):
        read_weights(tmp_path / "evil.pth")
    assert "never run" not in capsys.readouterr().out


def test_absent_weights_are_one_clear_line(tmp_path):
    with pytest.raises(UsageError, match="no such weights file"):
        read_weights(tmp_path / "gone.pth")


def test_frozen_head_of_an_old_step_is_untouched_by_growth():
    model = create("bisenet", [2], {"width": 0.25})
    old = model.classifier.head[0].weight.clone()
    model.grow(3)
    assert torch.equal(model.classifier.head[0].weight, old)


def test_the_smallest_bisenet_trains_on_several_threads_with_any_batch():
    """A shortcut of 8 channels crashed the process, so it runs in one of its own."""
    code = (
        "import torch; from edgeinc.models import create; torch.set_num_threads(2)\n"
        "model = create('bisenet', [3], {'width': 0.125}).train()\n"
        "model.to(memory_format=torch.channels_last)\n"
        "for batch in (2, 3, 5, 7):\n"
        "    x = torch.randn(batch, 3, 64, 96).to(memory_format=torch.channels_last)\n"
        "    for _ in range(3):\n"
        "        model(x).logits.square().mean().backward()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

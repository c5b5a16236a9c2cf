"""What exporting in head modes promises: no step of a run changes the structure of its file."""

import pytest

import edgeinc

pytest.importorskip("onnxscript")


@pytest.mark.parametrize("head", ["dynamic", "capacity"])
@pytest.mark.xfail(strict=True, raises=TypeError, reason="export has no head modes yet")
def test_a_step_has_the_topology_and_the_initializers_of_the_one_before(base_run, head):
    import onnx

    cards, names = [], []
    for _ in range(2):
        if cards:
            edgeinc.extend(base_run, new_classes=["car", "tree"], method="finetune")
        result = edgeinc.export(base_run, head=head)
        cards.append(result.card)
        names.append([t.name for t in onnx.load(result.path).graph.initializer])
    assert cards[0].topology_sha256 == cards[1].topology_sha256
    assert names[0] == names[1]

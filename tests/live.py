"""A real repository with real networks, and a device before it that serves them."""

import hashlib
import shutil
from copy import copy
from dataclasses import replace

import numpy as np
from devices import GATES, channel, sha
from devices import bundle as described

from edgeinc.runtimes import _golden
from edgeinc.schema import ArtifactCard, Blob, BundleArtifact, ClassInfo, DeviceConfig, to_json
from edgeinc.update import _zstd
from edgeinc.update.device import Device
from edgeinc.update.enrol import init
from edgeinc.update.manifest import bundle_id, read, write
from edgeinc.update.repository import Repository
from edgeinc.update.source import repository

SIZE = (32, 48)
BASE = np.eye(3)
GROWN = np.array([[1, 0, 0, 0.6], [0, 1, 0, 0.6], [0, 0, 1, 0]])
"""The fourth class is yellow."""
QUICK = replace(GATES, trial_seconds=0.3, trial_frames=20)
FRAMES = np.zeros((4, *SIZE, 3), np.uint8)
FRAMES[:, :, :16, 0], FRAMES[:, :, 16:32, 1], FRAMES[:, :, 32:] = 200, 200, (255, 255, 0)
"""Stripes of red, green and yellow."""


def classes(count):
    return tuple(ClassInfo(i, f"class{i}", (50 * i, 200, 255 - 50 * i), 0) for i in range(count))


def network(matrix, *, step, bias=None, breaks=False):
    """An export that gives a pixel the class whose column of (3, classes) fits it best, as bytes.

    `bias`: added to the scores. `breaks`: it fails on an image with a value of 255, which the
    questions of a probe do not have.
    """
    import onnx
    from onnx import TensorProto as T
    from onnx import helper

    from edgeinc.runtimes._card import to_metadata

    count = matrix.shape[1]
    bias = np.zeros(count) if bias is None else np.asarray(bias)
    constants = {"weight": matrix, "bias": bias}
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=T.FLOAT),
        helper.make_node("MatMul", ["floats", "weight"], ["products"]),
        helper.make_node("Add", ["products", "bias"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["ids"], axis=3, keepdims=0),
        helper.make_node("Cast", ["ids"], ["classes"], to=T.UINT8),
    ]
    tensors = [
        onnx.numpy_helper.from_array(np.asarray(value, np.float32), name)
        for name, value in constants.items()
    ]
    if breaks:  # the brightest value is an index into a table that ends below 255
        nodes[2:3] = [
            helper.make_node("ReduceMax", ["floats"], ["highest"], keepdims=0),
            helper.make_node("Cast", ["highest"], ["index"], to=T.INT64),
            helper.make_node("Gather", ["table", "index"], ["nothing"]),
            helper.make_node("Add", ["bias", "nothing"], ["more"]),
            helper.make_node("Add", ["products", "more"], ["scores"]),
        ]
        tensors.append(onnx.numpy_helper.from_array(np.zeros(255, np.float32), "table"))
    graph = helper.make_graph(
        nodes,
        "fitting",
        [helper.make_tensor_value_info("images", T.UINT8, ["n", *SIZE, 3])],
        [helper.make_tensor_value_info("classes", T.UINT8, ["n", *SIZE])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    card = ArtifactCard(
        file="model.onnx", sha256="", bytes=0, model="erfnet", method="joint", step=step,
        classes=classes(count), background="none", size=SIZE, precision="fp32", head="static",
        decision="argmax", input="uint8 NHWC", output="classes", mean=(0.0,) * 3, std=(1.0,) * 3,
        opset=18, topology_sha256=f"{count}{breaks:d}" * 32, weights_sha256="1" * 64,
        parent_sha256="", versions={"edgeinc": "0.1.0"}, created="", batch=(1, 1, 8),
    )  # fmt: skip

    def answer(images):
        return (images @ matrix + bias).argmax(3).astype(np.uint8)

    for key, value in {**to_metadata(card), **_golden.ask(answer, SIZE)}.items():
        model.metadata_props.add(key=key, value=value)
    return model.SerializeToString()


class Fleet:
    """A repository in a folder, whose one fleet has one device."""

    def __init__(self, folder, keys):
        self.folder = folder / "repo"
        self.roles = {
            role: keys[role]
            for role in ("root", "targets", "snapshot", "timestamp", "model-erfnet")
        } | {"channel-poles": keys["channel-north"]}
        self.signers = [s for signers in self.roles.values() for s in signers]
        self.repository = Repository(self.folder)
        self.repository.create(self.roles)
        self.root = folder / "device"

    def publish(self, step, artifact, *, count, gates=QUICK):
        """Sign a step and ask the fleet to take it; its bundle id."""
        packed = _zstd.compress(artifact, 3)
        path = f"models/erfnet/step-{step:04d}"
        full = Blob("full", f"{path}/full.zst", len(packed), sha(packed), "", "zstd")
        plain = read(described(step, gates=gates).content, "test")
        manifest = replace(
            plain,
            classes=classes(count),
            artifact=BundleArtifact(
                "model.onnx", len(artifact), hashlib.sha256(artifact).hexdigest(), "0" * 64,
                "1" * 64, "fp32", "static", SIZE, "classes",
            ),
            blobs=(full,),
        )  # fmt: skip
        content = write(manifest)
        files = {f"{path}/manifest.json": content, full.target: packed}
        self.repository.add_targets("model-erfnet", files, signers=self.signers)
        asked = replace(
            channel(described(step)), bundle_id=bundle_id(content),
            manifest=f"{path}/manifest.json",
        )  # fmt: skip
        self.repository.add_targets(
            "channel-poles", {"channels/poles/stable.json": write(asked)}, signers=self.signers
        )
        return bundle_id(content)

    def config(self):
        return DeviceConfig(
            device="pole-7", fleet="poles", model="erfnet", repository=str(self.folder),
            provider="cpu",
        )  # fmt: skip

    def trust(self):
        return (self.folder / "metadata" / "1.root.json").read_bytes()

    def install(self):
        """Make the device, and let it take what is published."""
        init(self.root, self.config(), self.trust())
        return self.update()

    def copied(self, folder):
        """The same repository and device in another folder."""
        shutil.copytree(self.folder.parent, folder / "fleet", symlinks=True)
        other = copy(self)
        other.folder, other.root = folder / "fleet" / "repo", folder / "fleet" / "device"
        other.repository = Repository(other.folder)
        (other.root / "device.json").write_text(to_json(other.config()))
        return other

    def device(self):
        return Device(self.root)

    def update(self, **how):
        return self.device().update(repository(self.root), **how)

"""From an exported file to a signed step: checked, coded, scored, and only then signed.

Nothing is signed before everything that can be wrong was looked at: the keys, the classes, the
graph, the score of the very bytes that devices will serve, and every way to these bytes. Blobs and
manifest are signed first and what a fleet is asked for after them, so whoever reads meanwhile is
asked for the step before.

    publish(Path("repo"), "runs/a", keys=["file:keys/teams", "file:keys/online"])
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from edgeinc import registry
from edgeinc.clock import written_now
from edgeinc.data import Data
from edgeinc.errors import UsageError, as_typed
from edgeinc.progress import SILENT, Progress
from edgeinc.runs import open_run
from edgeinc.runtimes._head import HEAD_WEIGHT
from edgeinc.runtimes._onnx_file import metadata
from edgeinc.runtimes._update import Candidate, read_candidate, refuse_not_finite
from edgeinc.schema import (
    Blob,
    BundleArtifact,
    BundleMethod,
    BundleParent,
    Manifest,
    PublishResult,
    Requirements,
)
from edgeinc.update._closed_loop import BASES, Base, Fixed, close
from edgeinc.update._evidence import Judge, score_of, unmet
from edgeinc.update._frame import split
from edgeinc.update._questions import answered, questions
from edgeinc.update.keys import Secret, signers_of
from edgeinc.update.manifest import (
    MAX_NOTES,
    bundle_id,
    refuse_other_classes,
    text_problems,
    write,
)
from edgeinc.update.promote import Wish, asked, fleet_of, refuse_missing_keys
from edgeinc.update.releases import MANIFEST, Release, artifact_of, channel_of, releases
from edgeinc.update.repository import Repository
from edgeinc.update.roles import channel_path, channel_role, model_role, release_path, site_role
from edgeinc.update.terms import Terms, gates_of, refuse_impossible

OLDEST = "0.1.0"
"""The oldest edgeinc that reads what this one publishes."""


def publish(
    folder: Path,
    target: str | os.PathLike[str],
    *,
    keys: Iterable[str] = (),
    fleet: str | None = None,
    wish: Wish | None = None,
    site: str = "",
    notes: str = "",
    terms: Terms | None = None,
    golden: Path | None = None,
    data: Data | None = None,
    data_root: str | None = None,
    limit: int | None = None,
    dry_run: bool = False,
    secret: Secret | None = None,
    progress: Progress = SILENT,
) -> PublishResult:
    """Publish a step.

    Args:
        folder: The repository.
        target: An exported file, or a run, of whose newest step the newest exported file is taken.
        keys: URIs of what signs; see `keys.signers_of`.
        fleet: Which fleet is asked to serve it; None is the only one there is, "" none.
        wish: How the fleet is asked.
        site: The site that made the step, which signs it below its own path; "" for the model's.
        notes: For people.
        terms: What it has to meet.
        golden: Images for devices to answer, and answers that have to be right; see `answered`.
        data: Labelled images to score on; None takes those of the run.
        data_root: Where named datasets lie.
        limit: Look at the first N images only.
        dry_run: Do all but sign; needs no key.
        secret: Asks for the PIN of a token.
        progress: Told about the parts of the work.

    Returns:
        What was published. Where `unmet` is not empty, nothing was.

    Raises:
        UsageError: No such run, file, repository or key; the step is published already, its graph
            is another one, or there is nothing to score it on.
        UpdateError: An id of an older step would mean something else, or weights are not finite.
        MissingError: A package that this needs is not installed.
        EdgeincError: A file or the repository is damaged, or another publisher was faster.
    """
    repository, terms, wish = Repository(folder), terms or Terms(), wish or Wish()
    refuse_impossible(terms)
    _refuse_notes(notes)
    candidate = read_candidate(exported_file(Path(target)))
    card = candidate.card
    role = site_role(site) if site else model_role(card.model)
    fleet = fleet_of(repository, fleet)
    roles = [role, *([channel_role(fleet)] if fleet else [])]
    signers = [] if dry_run else signers_of(keys, secret=secret)
    refuse_missing_keys(repository, roles, None if dry_run else signers)
    seen = repository.versions()
    held = releases(repository, card.model, site=site)
    older = [r for r in held if r.manifest.step < card.step]
    draft = _draft(candidate, older[0] if older else None, terms, notes)
    _refuse_published([r for r in held if r.site == site], draft, folder, terms)
    channel = asked(channel_of(repository, fleet), fleet, draft, wish) if fleet else None
    asked_first = None if golden is None else questions(golden, card)
    refuse_not_finite(candidate)

    bases = [Base(r.manifest.step, artifact_of(repository, r)) for r in older[:BASES]]
    judge = None
    if not terms.unscored:
        judge = Judge(candidate, data=data, data_root=data_root, limit=limit, progress=progress)
        _ = judge.exported  # says at once when there is nothing to score on
    fixed = close(
        candidate,
        bases,
        judge,
        bits=terms.bits,
        max_loss=terms.max_miou_loss,
        progress=progress,
    )
    files = _files(fixed, card.model, card.step, site)
    if asked_first is not None:
        content = answered(asked_first, fixed.content, card, draft.gates.golden_percent)
        path = release_path(card.model, card.step, "golden.npz", site=site)
        files.append((_blob("golden", path, content, "npz"), content))
    manifest = _finished(draft, candidate, fixed, bases, judge, [blob for blob, _ in files])
    score = manifest.metrics
    missed = (
        ()
        if score is None
        else unmet(score, min_miou=terms.min_miou, max_drop=terms.max_drop, first=not bases)
    )
    content = write(manifest)
    path = release_path(card.model, card.step, MANIFEST, site=site)
    if channel is not None:
        channel = replace(channel, manifest=path, bundle_id=bundle_id(content))
    result = PublishResult(
        folder=str(folder),
        artifact=str(candidate.path),
        model=card.model,
        step=card.step,
        bundle_id=bundle_id(content),
        manifest=path,
        artifact_bytes=manifest.artifact.bytes,
        artifact_sha256=manifest.artifact.sha256,
        classes=tuple(c.name for c in card.classes),
        parent=manifest.parent.step if manifest.parent else None,
        deltas_from=tuple(d.base.step for d in fixed.deltas),
        blobs=manifest.blobs,
        attempts=fixed.attempts,
        metrics=score,
        topology_changed=manifest.topology_changed,
        channel=channel,
        unmet=missed,
        published=False,
        versions={},
    )
    if dry_run or missed:
        return result
    signed = {blob.target: data for blob, data in files} | {path: content}
    versions = repository.add_targets(role, signed, signers=signers, seen=seen).versions
    if channel is not None and fleet:
        where, asks = {channel_path(fleet): write(channel)}, channel_role(fleet)
        versions |= repository.add_targets(asks, where, signers=signers, seen=seen).versions
    return replace(result, published=True, versions=versions)


def exported_file(target: Path) -> Path:
    """The file itself, or the newest one that was exported of a run's newest step or of RUN/step-N.

    Raises:
        UsageError: There is none, or it is not an .onnx file.
    """
    if target.suffix == ".onnx" and target.is_file():
        return target
    run, number = target, None
    if target.name.removeprefix("step-").isdigit() and target.is_dir():
        run, number = target.parent, int(target.name.removeprefix("step-"))
    if not (run / "run.json").is_file():
        raise UsageError(
            f"{target} is neither a run nor an exported .onnx file", hint="check the path"
        )
    step = open_run(run).step(number).index
    files = sorted((run / "export").glob(f"step-{step}.*.onnx"), key=lambda f: f.stat().st_mtime)
    if not files:
        raise UsageError(
            f"step {step} of {run} was not exported",
            hint=as_typed("export", run, "--step", step, "--head", "dynamic"),
        )
    return files[-1]


def _refuse_notes(notes: str) -> None:
    problem = next(text_problems(notes, "notes"), "")
    if problem:
        raise UsageError(problem, hint=f"--notes takes plain lines, {MAX_NOTES} characters")


def _refuse_published(mine: Sequence[Release], draft: Manifest, folder: Path, terms: Terms) -> None:
    """Steps come in order, and another file for one is asked for.

    Raises:
        UsageError: The step is published already, or a newer one is.
        UpdateError: It would give an id of the file it replaces another meaning.
    """
    newest = mine[0].manifest if mine else None
    if newest is None or draft.step > newest.step:
        return
    offer = as_typed("publish", "--repo", folder, "--step", draft.step)
    hint = f"to offer a published step: {offer}"
    if draft.step < newest.step:
        raise UsageError(
            f"step {draft.step} is older than step {newest.step}, which is published", hint=hint
        )
    if not terms.replace:
        raise UsageError(
            f"step {draft.step} is published already",
            hint=f"{hint}; --replace publishes another file for it",
        )
    refuse_other_classes(newest, draft)


def _draft(candidate: Candidate, parent: Release | None, terms: Terms, notes: str) -> Manifest:
    """What is known of a manifest before the file is fixed.

    Raises:
        UsageError: The graph is another one than the parent's, and that was not allowed.
        UpdateError: It gives an id another meaning.
    """
    card = candidate.card
    draft = Manifest(
        model=card.model,
        step=card.step,
        created=written_now(),
        producer=dict(card.versions),
        artifact=BundleArtifact(
            file_name=f"{card.model}.step-{card.step}.{card.precision}.onnx",
            bytes=0,
            sha256="",
            topology_sha256=card.topology_sha256,
            weights_sha256="",
            precision=card.precision,  # type: ignore[arg-type]
            head=card.head,
            size=card.size,
            answer=card.answer,
        ),
        parent=None
        if parent is None
        else BundleParent(parent.manifest.step, parent.bundle_id, parent.manifest.artifact.sha256),
        method=BundleMethod(card.method, _data_free(card.method, card.step), 0, "all"),
        classes=card.classes,
        background=card.background,
        blobs=(),
        metrics=None,
        gates=gates_of(card.precision, terms.gates or {}),
        requires=Requirements(edgeinc=OLDEST, runtimes=(), free_bytes=0),
        topology_changed=False,
        notes=notes,
    )
    if parent is None:
        return draft
    refuse_other_classes(parent.manifest, draft)
    changed = parent.manifest.artifact.topology_sha256 != card.topology_sha256
    if changed and not terms.new_graph:
        raise UsageError(
            f"{candidate.path} has another graph than step {parent.manifest.step}, which devices "
            f"hold: head {parent.manifest.artifact.head} in "
            f"{parent.manifest.artifact.precision}, now {card.head} in {card.precision}",
            hint="export it as that step was (--head dynamic keeps the graph), or add "
            "--new-graph: devices then build their engines anew",
        )
    return replace(draft, topology_changed=changed)


def _finished(
    draft: Manifest,
    candidate: Candidate,
    fixed: Fixed,
    bases: Sequence[Base],
    judge: Judge | None,
    blobs: Sequence[Blob],
) -> Manifest:
    base = bases[0].content if bases else None
    score = None
    if judge is not None:
        before = None if base is None else judge.held(base, bases[0].step)
        score = score_of(judge.score(fixed.content), before)
    artifact = replace(
        draft.artifact,
        bytes=len(fixed.content),
        sha256=hashlib.sha256(fixed.content).hexdigest(),
        weights_sha256=metadata(fixed.content)["weights_sha256"],
    )
    trainable = "all" if base is None else _moved(base, fixed.content)
    return replace(
        draft,
        artifact=artifact,
        method=replace(draft.method, trainable=trainable),
        blobs=tuple(blobs),
        metrics=score,
    )


def _files(fixed: Fixed, model: str, step: int, site: str) -> list[tuple[Blob, bytes]]:
    """The blobs of a step with their content."""

    def path(name: str) -> str:
        return release_path(model, step, name, site=site)

    files = [(_blob("full", path("full.zst"), fixed.full, "zstd"), fixed.full)]
    for way in fixed.deltas:
        name = f"from-{way.base.sha256[:16]}.ezd"
        blob = _blob("delta", path(name), way.blob, way.codec)
        files.append((replace(blob, base_sha256=way.base.sha256), way.blob))
    return files


def _blob(kind: str, target: str, content: bytes, codec: str) -> Blob:
    digest = hashlib.sha256(content).hexdigest()
    return Blob(kind, target, len(content), digest, "", codec)  # type: ignore[arg-type]


def _data_free(method: str, step: int) -> bool:
    """Whether a step was learned without images of the steps before."""
    if step == 0 or method not in registry.names("methods"):
        return step == 0
    return bool(registry.load("methods", method).labels != "all")


def _moved(old: bytes, new: bytes) -> str:
    """The parts of the network whose weights differ, `all` where none stayed."""
    before = {t.name: old[t.offset : t.offset + t.length] for t in split(old).tensors}
    # Names of weights have a part before a dot; what has none is a constant of the graph.
    tensors = [t for t in split(new).tensors if "." in t.name]
    moved = {
        t.name.split(".")[0]
        for t in tensors
        if before.get(t.name) != new[t.offset : t.offset + t.length]
    }
    if metadata(old).get(HEAD_WEIGHT) != metadata(new).get(HEAD_WEIGHT):
        moved.add("head")
    stayed = {t.name.split(".")[0] for t in tensors} - moved
    return ", ".join(sorted(moved))[:256] or "nothing" if stayed else "all"

"""Who gets which published step: what a fleet's operator signs.

promote(Path("repo"), wish=Wish(percent=50.0), keys=["file:keys/teams", "file:keys/online"])
promote(Path("repo"), step=0, wish=Wish(rollback=True), keys=[...])
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from securesystemslib.signer import Signer

from edgeinc.clock import written_now
from edgeinc.errors import UsageError
from edgeinc.schema import Channel, ChannelResult, Manifest
from edgeinc.update._signing import able
from edgeinc.update._tree import Tree
from edgeinc.update.keys import Secret, signers_of
from edgeinc.update.manifest import write
from edgeinc.update.releases import Release, channel_of, releases
from edgeinc.update.repository import Repository
from edgeinc.update.roles import channel_path, channel_role


@dataclass(frozen=True)
class Wish:
    """How a fleet is asked. None leaves what is; for another step that is everyone, at once.

    Attributes:
        percent: Of the fleet.
        paused: Whether devices wait.
        revoke_below: No device may serve an older step.
        rollback: Devices with a newer step shall go back.
    """

    percent: float | None = None
    paused: bool | None = None
    revoke_below: int | None = None
    rollback: bool = False


def promote(
    folder: Path,
    *,
    keys: Iterable[str] = (),
    fleet: str | None = None,
    step: int | None = None,
    site: str = "",
    wish: Wish | None = None,
    dry_run: bool = False,
    secret: Secret | None = None,
) -> ChannelResult:
    """Change what a fleet is asked to serve, to a step that is published already.

    Args:
        folder: The repository.
        keys: URIs of what signs: the fleet's key and the online ones.
        fleet: Its name; None is the only one there is.
        step: The step; None is the one it is asked for now.
        site: The site that published `step`; "" for the model's own. The step that the fleet is
            asked for now says itself whose it is.
        wish: How it is asked.
        dry_run: Do all but sign; needs no key.
        secret: Asks for the PIN of a token.

    Raises:
        UsageError: No such fleet or step, a wish that cannot be, or a key is missing.
        EdgeincError: The repository is damaged, or another publisher was faster.
    """
    repository = Repository(folder)
    name = fleet_of(repository, fleet)
    if not name:
        raise UsageError("there is no fleet to ask", hint="name one with --channel FLEET")
    signers = [] if dry_run else signers_of(keys, secret=secret)
    refuse_missing_keys(repository, [channel_role(name)], None if dry_run else signers)
    seen = repository.versions()
    now = channel_of(repository, name)
    if step is None and now is not None:
        site = _site_of(now, site)
    release = _release(repository, name, now, step, site)
    channel = asked(now, name, release.manifest, wish or Wish())
    channel = replace(channel, manifest=release.path, bundle_id=release.bundle_id)
    path, content = channel_path(name), write(channel)
    versions = {}
    if not dry_run:
        files = {path: content}
        done = repository.add_targets(channel_role(name), files, signers=signers, seen=seen)
        versions = done.versions
    return ChannelResult(str(folder), path, channel, not dry_run, versions)


def asked(now: Channel | None, fleet: str, new: Manifest, wish: Wish) -> Channel:
    """The channel that asks for a step; where its manifest lies is filled in later.

    Devices are drawn anew for every step, so that not always the same ones are the first.

    Args:
        now: What the fleet is asked for now.
        fleet: Its name.
        new: The manifest of the step.
        wish: How.

    Raises:
        UsageError: A percent or step that cannot be, the fleet has another model, the step is older
            or revoked, or the wish revokes the step itself, or what others of the fleet serve.
    """
    _refuse_impossible(wish)
    if now is not None and now.model != new.model:
        raise UsageError(
            f"fleet {fleet} has {now.model}, and this is {new.model}",
            hint="name another fleet with --channel FLEET, or --no-channel",
        )
    same = now is not None and now.step == new.step
    before = now.revoke_below if now else 0
    floor = before if wish.revoke_below is None else wish.revoke_below
    if floor < before:
        raise UsageError(
            f"revoke_below is {floor}, and steps below {before} are revoked already: devices that "
            "have seen that never go below it",
            hint="leave it out, and publish the content of an older step as a newer one",
        )
    if new.step < floor:
        raise UsageError(
            f"step {new.step} is revoked: no device may serve one below step {floor}",
            hint="offer a newer step: who has seen what is revoked never goes below it again",
        )
    if now is not None and new.step < now.step and not wish.rollback:
        raise UsageError(
            f"step {new.step} is older than step {now.step}, which fleet {fleet} is asked for",
            hint="add --rollback: devices then go back to it",
        )
    draft = now if now is not None and same else None
    percent = 100.0 if draft is None else draft.percent
    paused = False if draft is None else draft.paused
    channel = Channel(
        fleet=fleet,
        model=new.model,
        manifest="",
        bundle_id="",
        step=new.step,
        percent=percent if wish.percent is None else wish.percent,
        salt=f"{fleet} {new.model} {new.step}",
        paused=paused if wish.paused is None else wish.paused,
        revoke_below=floor,
        rollback=wish.rollback or (draft is not None and draft.rollback),
        updated=written_now(),
    )
    if floor > before:
        _refuse_half_revoked(channel)
    return channel


def _refuse_half_revoked(channel: Channel) -> None:
    """Devices that are not asked for a step may serve any that was allowed so far, and go on."""
    if channel.percent == 100 and not channel.paused:
        return
    some = "nobody, as it is paused" if channel.paused else f"{channel.percent:g} % of the fleet"
    raise UsageError(
        f"steps below {channel.revoke_below} cannot be revoked while step {channel.step} is "
        f"offered to {some}: other devices would go on serving them",
        hint=f"ask everyone: --percent 100 --resume --revoke-below {channel.revoke_below}; or "
        "revoke once the step is everywhere",
    )


def _refuse_impossible(wish: Wish) -> None:
    if wish.percent is not None and not 0 <= wish.percent <= 100:  # nan is not, either
        raise UsageError(
            f"percent is {wish.percent}, not within 0 and 100", hint="such as --percent 10"
        )
    if wish.revoke_below is not None and wish.revoke_below < 0:
        raise UsageError(
            f"revoke_below is {wish.revoke_below}, and steps count from 0",
            hint="0 revokes nothing; N revokes every step below N",
        )


def fleet_of(repository: Repository, fleet: str | None) -> str:
    """The fleet that was named, or the only one; "" stays that.

    Raises:
        UsageError: None was named and there is not exactly one.
    """
    if fleet is not None:
        return fleet
    names = [r.name.partition("-")[2] for r in repository.listing().roles if _is_channel(r.name)]
    if len(names) != 1:
        raise UsageError(
            f"{repository.folder} has {len(names)} fleets: {', '.join(names) or 'none'}",
            hint="name one with --channel FLEET; --no-channel asks none",
        )
    return names[0]


def refuse_missing_keys(
    repository: Repository, roles: Sequence[str], signers: Sequence[Signer] | None
) -> None:
    """Say before any work what could not be signed in the end.

    Args:
        repository: Where.
        roles: Beside snapshot and timestamp.
        signers: What was given; None where nothing will be signed and only the roles are looked up.

    Raises:
        UsageError: There is no such role, or keys are missing, with all that are.
    """
    published = Tree(repository.folder).read()
    for role in roles:
        published.delegator(role)
    wanted = [*roles, "snapshot", "timestamp"]
    missing = [r for r in wanted if signers is not None and not able(published, r, signers)]
    if missing:
        raise UsageError(
            f"the keys of {', '.join(missing)} are missing",
            hint="add --key URI for each, such as --key file:keys/teams --key file:keys/online; "
            "`edgeinc repo ls` shows whose they are",
        )


def _release(
    repository: Repository, fleet: str, now: Channel | None, step: int | None, site: str
) -> Release:
    model = now.model if now else _only_model(repository)
    if step is None and now is None:
        raise UsageError(
            f"fleet {fleet} is asked for no step yet", hint="name a published one with --step N"
        )
    found = releases(repository, model, site=site)
    for release in found:
        if step is None and now is not None and release.bundle_id == now.bundle_id:
            return release
        if step == release.manifest.step and release.site == site:
            return release
    steps = ", ".join(str(r.manifest.step) for r in found if r.site == site) or "none"
    wanted = now.step if step is None and now is not None else step
    sites = [r.name for r in repository.listing().roles if r.name.startswith("site-")]
    more = "; the steps of a site are named with --site NAME" if sites and not site else ""
    raise UsageError(
        f"step {wanted} of {model} is not published", hint=f"steps there are: {steps}{more}"
    )


def _site_of(now: Channel, site: str) -> str:
    """The site whose step a fleet is asked for, "" where it is the model's own.

    Raises:
        UsageError: Another site was named.
    """
    part = now.manifest.split("/")[2]
    held = part.partition("-")[2] if part.startswith("site-") else ""
    if site and site != held:
        whose = f"site {held}" if held else f"the model {now.model}"
        raise UsageError(
            f"fleet {now.fleet} is asked for step {now.step} of {whose}, not of site {site}",
            hint="leave out --site, or name a step of the site with --step N",
        )
    return held


def _only_model(repository: Repository) -> str:
    names = [r.name for r in repository.listing().roles if r.name.startswith("model-")]
    if len(names) != 1:
        raise UsageError(
            f"{repository.folder} has {len(names)} models, and the fleet was asked for none yet",
            hint="publish its first step from a run or an artifact",
        )
    return names[0].removeprefix("model-")


def _is_channel(role: str) -> bool:
    return role.startswith("channel-")

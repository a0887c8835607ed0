"""What a user can ask about keeping and deleting: the trash, holds, locks, retention policies.  A base of
``snapfs.service``, whose rules hold here too.

A policy looks again at each snapshot in the step that deletes it: what was held, locked, tagged, cloned or made
current meanwhile stays.  When others change snapshots meanwhile, the policy is evaluated anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Final

import trio

from snapfs import api
from snapfs.accounting import Accounting
from snapfs.errors import Conflict, Invalid, NoSpace, SnapfsError
from snapfs.format import keys
from snapfs.format.records import SnapshotRecord
from snapfs.format.seals import decode_record
from snapfs.types import Epoch
from snapfs.volume.background import in_background
from snapfs.volume.core import now_ns
from snapfs.volume.describe import Describe
from snapfs.volume.lake import Lake
from snapfs.volume.mounted import Mounted
from snapfs.volume.protection import Anchors, anchors, protection
from snapfs.volume.references import COMMIT, Position
from snapfs.volume.retention import Facts, Verdict, check_policy, commits_of, evaluate, in_words
from snapfs.volume.trash import Entry
from snapfs.volume.volumes import Volume

Reachable = Callable[[str, Collection[str]], set[str]]
"""Which of the commits (full IDs) a repository, by its path, still reaches.  Blocks.  Raises SnapfsError: it cannot be
asked."""

_TURN: Final = 200
"""Snapshots looked at between two awaits (1 to 2 ms)."""
_BATCH: Final = 16
"""Snapshots deleted between two awaits (about 2 ms)."""
_PAUSE_SECONDS: Final = 0.002
_TRIES: Final = 3
"""Looks at all snapshots of a volume, while others change snapshots."""
_LOOKS_MAX: Final = 10
"""Decisions in a row that were out of date before anything was deleted by them."""
_ASKED_AT_ONCE: Final = 2
"""Repositories; one may take minutes."""
_COMMIT_EVERY: Final = 128
"""Snapshots deleted by one policy between two commits of its own."""


class Retaining(Accounting):
    """Verbs on what stays and what goes."""

    def __init__(self, lake: Lake, mounted: Mounted | None, reachable: Reachable | None) -> None:
        super().__init__(lake, mounted)
        self._reachable = reachable
        self._asking = trio.CapacityLimiter(_ASKED_AT_ONCE)
        self._describe = Describe(lake.core, lake.volumes, lake.snapshots)

    def _find(self, volume: str, snapshot: str) -> tuple[Volume, SnapshotRecord]:
        target = self._lake.volumes.get(volume)
        return target, self._lake.snapshots.resolve(target, snapshot)

    # -- holds and locks

    async def hold_snapshot(self, *, volume: str, snapshot: str, hold: str) -> api.Snapshot:
        """It cannot be deleted until that hold and all others are released.  Nothing happens if it has it already.

        Raises:
            NotFound, Invalid, NameTooLong, NoSpace, Conflict (100 holds).
        """
        owner, record = self._find(volume, snapshot)
        return await self._told(owner, self._lake.snapshots.hold(owner, record, hold))

    async def release_snapshot(self, *, volume: str, snapshot: str, hold: str) -> api.Snapshot:
        """Raises:
        NotFound: it has no such hold, or is not there.
        """
        owner, record = self._find(volume, snapshot)
        return await self._told(owner, self._lake.snapshots.release(owner, record, hold))

    async def lock_snapshot(self, *, volume: str, snapshot: str, until_ns: int) -> api.Snapshot:
        """Nobody can delete it, or its volume, before that time.  The time can be made later, never earlier.

        Raises:
            NotFound; Invalid: the time is past; Conflict: it is locked for longer.
        """
        owner, record = self._find(volume, snapshot)
        return await self._told(owner, self._lake.snapshots.lock(owner, record, until_ns))

    async def _told(self, owner: Volume, record: SnapshotRecord) -> api.Snapshot:
        answer = self._describe.snapshot(owner, record)
        await self._lake.commit()
        return answer

    # -- deleting

    async def delete_snapshot(self, *, volume: str, snapshot: str, purge: bool = False) -> None:
        """Into the trash, for ``trash.hours``; with ``purge``, or if that is 0, for good.  While the mount is busy it
        is answered before it is durable, which it is ``commit_seconds`` later at most.

        Raises:
            NotFound; Conflict: it is held or locked.
            Invalid: the ID of a commit that has several: the name of the first, and what finds the newest.
        """
        target, record = self._find(volume, snapshot)
        if record.name != snapshot and COMMIT.fullmatch(snapshot) and self._lake.snapshots.is_name(target, snapshot):
            hint = f"say which: {snapshot}.1 is the first, {record.name} the newest"
            raise Invalid(f"commit {snapshot} has several snapshots", hint=hint)
        self._lake.trash.delete_snapshot(target, record, purge=purge)
        await self._lake.commit_soon()

    async def delete_volume(self, *, name: str, force: bool = False, purge: bool = False) -> None:
        """Into the trash, or for good, as ``delete_snapshot``; with ``force`` also its snapshots and what its head
        holds.

        Raises:
            Conflict: it has snapshots; or, with ``force``, one that is held or locked.
            NotEmpty: its head has files.
            NoSpace: what was written lately cannot be stored, so it cannot be taken back: purge it.
        """
        lake = self._lake
        volume = lake.volumes.get(name)
        if purge or not lake.trash.keeps:
            lake.trash.delete_volume(volume, force=force, purge=purge)
        else:
            lake.trash.check_volume(volume, force=force)
            await self._push(volume)
            try:
                async with lake.writeback.hold(volume.head):
                    lake.core.tree.check_writable(volume.head)  # it may have been removed meanwhile
                    lake.trash.delete_volume(volume, force=force)
            except NoSpace as error:
                hint = "free space on the store's disk, or delete it for good: --purge"
                raise NoSpace(error.message, hint=hint) from None
        with trio.CancelScope(shield=True):  # as in ``Service._publish``
            try:
                await lake.commit()
            finally:
                if self._mounted:
                    await self._mounted.volume_removed(name)

    # -- the trash

    async def list_trash(self, *, volume: str = "") -> list[api.TrashEntry]:
        """What can be taken back, what was deleted first comes first; of volumes of this name, if one is given."""
        if next(self._lake.trash.numbers(), None) is None:
            return []
        statement = await self._statement()
        ledger = statement.ledger
        views, volumes = await in_background(lambda _: (ledger.views(), ledger.volumes()))
        exclusive: dict[int, int] = {number: figures.exclusive_bytes for number, figures in volumes.items()}
        exclusive |= {epoch: views[number].exclusive_bytes for number, epoch in enumerate(ledger.order.views)}
        trash = self._lake.trash
        return [
            api.TrashEntry(
                volume=entry.volume.name,
                snapshot=entry.snapshot.name if entry.snapshot else "",
                deleted_ns=entry.deleted_ns,
                expires_ns=trash.expires_ns(entry.deleted_ns),
                exclusive_bytes=exclusive.get(entry.number, 0),  # 0: it has just come here
            )
            for entry in await self._chosen(volume, "")
        ]

    async def undelete_snapshot(self, *, volume: str, snapshot: str, name: str = "") -> api.Snapshot:
        """Back from the trash, with those of its tags that are still free.

        Args:
            snapshot: its name, a tag or its commit; of several, what was deleted last is meant.
            name: a new one; empty: its old one.

        Raises:
            NotFound: there is no such volume, or the trash has no such snapshot of it.
            Conflict: its old name is taken.
            AlreadyExists, Invalid, NameTooLong: of the new name.  NoSpace.
        """
        target = self._lake.volumes.get(volume)
        return await self._told(target, self._lake.trash.take_back_snapshot(target, snapshot, name))

    async def undelete_volume(self, *, volume: str, name: str = "") -> api.Volume:
        """Back from the trash, with its snapshots.  Arguments and errors as of ``undelete_snapshot``."""
        answer = self._describe.volume(self._lake.trash.take_back_volume(volume, name))
        await self._lake.commit()
        return answer

    async def empty_trash(self, *, volume: str = "", snapshot: str = "") -> api.Emptied:
        """What the trash has goes for good: all; or, of volumes of a name, these and their snapshots, or one snapshot.

        Raises:
            NotFound: the trash has nothing of that name.
        """
        if snapshot and not volume:
            raise Invalid("of which volume?", hint="a snapshot is named VOLUME@SNAPSHOT")
        trash = self._lake.trash
        chosen = await self._chosen(volume, snapshot)
        if not chosen and snapshot:  # by a tag or a commit, then
            chosen = [trash.find_snapshot(self._lake.volumes.get(volume), snapshot)]
        elif not chosen and volume:
            trash.find_volume(volume)
        entries = kept = 0
        for start in range(0, len(chosen), _BATCH):
            gone, left = trash.empty([entry for entry in chosen[start : start + _BATCH] if trash.has(entry)])
            entries, kept = entries + gone, kept + left
            await trio.sleep(_PAUSE_SECONDS)
        await self._lake.commit()
        return api.Emptied(entries=entries, kept=kept)

    async def _chosen(self, volume: str, snapshot: str) -> list[Entry]:
        """What the trash has of volumes of a name (empty: of all), or of one snapshot."""
        trash = self._lake.trash
        numbers = list(trash.numbers())
        found: list[Entry] = []
        for start in range(0, len(numbers), _TURN):
            for deleted_ns, number in numbers[start : start + _TURN]:
                entry = trash.entry(deleted_ns, number)
                if entry is None or not trash.has(entry) or volume not in ("", entry.volume.name):
                    continue
                if not snapshot or (entry.snapshot is not None and entry.snapshot.name == snapshot):
                    found.append(entry)
            await trio.lowlevel.checkpoint()
        return found

    # -- policies

    async def set_policy(self, *, volume: str, policy: api.RetentionPolicy | None) -> api.Volume:
        """Which of the volume's snapshots stay, from the next ``retention.every_hours`` on; None: all.

        Raises:
            NotFound; Invalid: a policy that keeps nothing, or is malformed.
        """
        target = self._lake.volumes.get(volume)
        checked = None if policy is None else check_policy(policy)
        self._lake.volumes.set_policy(target, checked, in_words(checked))
        answer = self._describe.volume(target)
        await self._lake.commit()
        return answer

    async def apply_policy(
        self, *, volume: str = "", policy: api.RetentionPolicy | None = None, dry_run: bool = True
    ) -> api.RetentionReport:
        """Delete (as ``delete_snapshot`` does) what a volume's policy does not keep, or tell what that would be.

        Args:
            volume: empty: every volume that has a policy.
            policy: to use in place of the volume's own.

        Raises:
            NotFound; Conflict: the volume has no policy; Invalid: the policy is malformed, or of no volume.
            NoSpace, IOFailure: some of it may be deleted.
        """
        if policy is not None:
            check_policy(policy)
            if not volume:
                raise Invalid("to which volume should the policy be applied?")
        chosen = [self._lake.volumes.get(volume)] if volume else self._lake.volumes.all()
        if volume and policy is None and chosen[0].policy is None:
            raise Conflict(f"volume {volume!r} has no retention policy", hint="snap policy set VOLUME --last N")
        report = _Report()
        for target in chosen:
            wanted = policy or target.policy
            if wanted is not None:
                await self._apply(target, wanted, report, dry_run=dry_run)
        return api.RetentionReport(
            decisions=report.decisions, deleted=report.deleted, freed_bytes=report.freed_bytes, dry_run=dry_run,
            warnings=report.warnings,
        )  # fmt: skip

    async def _apply(
        self, volume: Volume, policy: api.RetentionPolicy, report: _Report, *, dry_run: bool
    ) -> None:  # fmt: skip
        own = policy is volume.policy
        facts = await self._facts(volume)
        asked = await self._ask(policy, commits_of(facts), report)
        verdicts = await self._evaluate_policy(policy, facts, asked)
        going = {verdict.facts.epoch for verdict in verdicts if not verdict.keep}
        decided = {verdict.facts.epoch: verdict for verdict in verdicts}
        ledger = (await self._statement()).ledger if going else None
        if not dry_run:
            going = await self._delete_all(volume, policy, asked, decided, own=own)
            report.deleted += len(going)
        report.add(volume, decided.values(), going)
        if going and ledger is not None:
            known = going & {*ledger.order.views}
            report.freed_bytes += await in_background(lambda _: ledger.freed(ledger.of_epochs(known)))

    async def _delete_all(
        self,
        volume: Volume,
        policy: api.RetentionPolicy,
        asked: dict[str, bool],
        decided: dict[Epoch, Verdict],
        *,
        own: bool,
    ) -> set[Epoch]:
        """What the policy does not keep goes, a batch at a time; ``decided`` is brought up to date.  The volume's
        ``own`` policy counts only as long as it is that."""
        snapshots = self._lake.snapshots
        gone: set[Epoch] = set()
        going: list[Epoch] = []
        seen, looks = -1, 0
        while volume.deleted_ns == 0 and (not own or volume.policy is policy):
            if seen != snapshots.changes:  # by others: it is another question now
                seen, looks = snapshots.changes, looks + 1
                verdicts = await self._evaluate_policy(policy, await self._facts(volume), asked)
                decided |= {verdict.facts.epoch: verdict for verdict in verdicts}
                going = [verdict.facts.epoch for verdict in verdicts if not verdict.keep]
                if seen != snapshots.changes:  # and again while it was answered
                    if looks < _LOOKS_MAX:
                        continue
                    break  # no pause in it: the rest is for the next time
            looks = 0
            batch, going = going[:_BATCH], going[_BATCH:]
            if not batch:
                break
            before = len(gone)
            gone |= self._delete(volume, batch)
            if len(gone) == before:  # nothing may go: it has changed just now
                continue
            seen = snapshots.changes
            if len(gone) // _COMMIT_EVERY != before // _COMMIT_EVERY:
                await self._lake.commit()
            await trio.sleep(_PAUSE_SECONDS)
        await self._lake.commit()
        return gone

    def _delete(self, volume: Volume, batch: Sequence[Epoch]) -> set[Epoch]:
        """Those that nothing keeps at this moment, in one step."""
        standing = anchors(self._lake.volumes, self._lake.snapshots)
        gone = set()
        for epoch in batch:
            record = self._lake.snapshots.alive(epoch)
            if record is not None and not protection(record, standing):
                self._lake.trash.delete_snapshot(volume, record)
                gone.add(epoch)
        return gone

    async def _facts(self, volume: Volume) -> list[Facts]:
        """Of all of the volume's snapshots, as of one moment, unless others change snapshots without a pause."""
        for _ in range(_TRIES):
            changes = self._lake.snapshots.changes
            found = await self._look(volume)
            if self._lake.snapshots.changes == changes:
                break
        return found

    async def _look(self, volume: Volume) -> list[Facts]:
        found: list[Facts] = []
        after: Position | None = None
        while True:
            standing = anchors(self._lake.volumes, self._lake.snapshots)
            turn = list(itertools.islice(self._lake.snapshots.order(volume, after=after), _TURN))
            records = filter(None, (self._lake.snapshots.get(epoch) for _, epoch in turn))
            found += [self._facts_of(record, standing) for record in records]
            await trio.lowlevel.checkpoint()
            if len(turn) < _TURN:
                return found
            after = turn[-1]

    def _facts_of(self, record: SnapshotRecord, standing: Anchors) -> Facts:
        seal = self._lake.index.get("seals", keys.u64(record.epoch))
        return Facts(
            epoch=record.epoch,
            name=record.name,
            created_ns=record.created_ns,
            commit=record.git.commit if record.git else "",
            content=decode_record(seal).content if seal else b"",
            protected=protection(record, standing),
        )

    async def _evaluate_policy(
        self, policy: api.RetentionPolicy, facts: list[Facts], asked: dict[str, bool]
    ) -> list[Verdict]:  # fmt: skip
        now = now_ns()
        return await in_background(lambda _: evaluate(policy, facts, now_ns=now, reachable=asked.get))

    async def _ask(self, policy: api.RetentionPolicy, commits: set[str], report: _Report) -> dict[str, bool]:
        """Of each commit whether a repository reaches it; none, if one of the repositories cannot be asked."""
        if not policy.reachable or not commits:
            return {}
        reach = self._reachable
        found: set[str] = set()
        failed = reach is None
        if reach is None:
            report.warn("git cannot be asked here: all snapshots with a commit stay")
        else:
            for repository in policy.repositories:
                try:
                    # given up when the daemon ends; never more at once, so that others find threads
                    found |= await trio.to_thread.run_sync(
                        reach, repository, commits, abandon_on_cancel=True, limiter=self._asking
                    )
                except SnapfsError as error:
                    failed = True
                    report.warn(f"{error.message}: all snapshots with a commit stay")
        return dict.fromkeys(found, True) if failed else {commit: commit in found for commit in commits}


class _Report:
    """What is found out about several volumes."""

    def __init__(self) -> None:
        self.decisions: list[api.Decision] = []
        self.warnings: list[str] = []
        self.deleted = 0
        self.freed_bytes = 0

    def warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)

    def add(self, volume: Volume, verdicts: Collection[Verdict], going: set[Epoch]) -> None:
        for verdict in sorted(verdicts, key=lambda verdict: (verdict.facts.created_ns, verdict.facts.epoch)):
            facts = verdict.facts
            keep = facts.epoch not in going
            reasons = list(verdict.reasons) or ([] if not keep else ["changed meanwhile"])
            self.decisions.append(
                api.Decision(
                    volume=volume.name, snapshot=facts.name, created_ns=facts.created_ns, keep=keep, reasons=reasons
                )
            )

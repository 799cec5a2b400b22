"""Lays out the steps that carry decisions out, with what each needs before it.

Owns the order: evidence before removal, containers before networks and volumes when tearing down, the reverse
when building up, dependencies before dependents. Pure.
"""

from __future__ import annotations

from typing import Any

from sandboxrun.model.declared import DeclaredSandbox, Profile
from sandboxrun.model.names import CONFIGS, EGRESS, GATEWAY, SECRETS, WORKSPACE
from sandboxrun.model.objects import NetworkSpec, VolumeSpec
from sandboxrun.model.observed import Ended, ObservedSandbox, Running, Snapshot
from sandboxrun.model.option import Effect
from sandboxrun.model.records import Attachment
from sandboxrun.plan import operations as op
from sandboxrun.plan.belongings import companions_of, own_companions, own_network, own_volumes, parts_of
from sandboxrun.plan.changes import Action, Change, Reason
from sandboxrun.plan.decide import Decision
from sandboxrun.plan.order import by_dependency

Ids = tuple[str, ...]


class Steps:
    """Builds one plan's list of operations."""

    def __init__(self, profile: Profile, snapshot: Snapshot) -> None:
        self._profile = profile
        self._snapshot = snapshot
        self._steps: list[op.Operation] = []
        self._removed: dict[str, str] = {}  # container id → the step that removes it
        self._couriers: Ids = ()
        self._networks: dict[str, str] = {}  # engine name → the step that makes it
        self._anew: set[str] = set()  # keys of networks that are replaced
        self._volumes: dict[str, str] = {}
        self._given: dict[str, str] = {}  # volume key → the step that gives it to a sandbox's user
        self._pulls: dict[str, str] = {}
        self._started: dict[str, str] = {}  # address → the step that starts it

    def lay(
        self, decisions: list[Decision], networks: list[Change], volumes: list[Change], images: list[Change]
    ) -> list[op.Operation]:
        """All steps; those with no needs in common may run side by side."""
        self._couriers = tuple(self._remove_courier(container) for container in self._snapshot.couriers)
        for decision in decisions:
            if decision.ends:
                self._teardown(decision)
        self._pull(images, decisions)
        self._make_networks(networks, decisions)
        self._make_volumes(volumes)
        for decision in by_dependency(decisions):
            self._carry_out(decision)
        self._remove_surroundings(networks, volumes)
        return self._steps

    def _add(self, step: op.Operation) -> str:
        self._steps.append(step)
        return step.id

    def _remove_courier(self, container: str) -> str:
        step = op.RemoveCourier(id=f"courier {container[:12]}", address="", cause="left over", container=container)
        return self._add(step)

    # -- tearing down ---------------------------------------------------------------------------------------

    def _teardown(self, decision: Decision) -> None:
        observed, change = decision.observed, decision.change
        assert observed is not None
        last: Ids = ()
        common: dict[str, Any] = {"address": change.address, "cause": change.note or change.reason.value}
        if isinstance(observed.state, Running):
            spec = observed.applied or observed.spec
            grace = -(-spec.stop_grace_period // 1_000_000_000)
            stop = op.StopSandbox(
                id=f"stop {change.address}", **common, container=observed.id, grace=grace, how=decision.how or "killed"
            )
            last = (self._add(stop),)
        if isinstance(observed.state, Running | Ended):
            how = decision.how or ("killed" if isinstance(observed.state, Running) else None)
            capture = op.CaptureEvidence(
                id=f"evidence {change.address}",
                **common,
                needs=last,
                container=observed.id,
                name=observed.name,
                run=observed.run,
                how=how,
                gateway=self._gateway(observed),
            )
            last = (self._add(capture),)
        remove = op.RemoveSandbox(
            id=f"remove {change.address}",
            **common,
            needs=(*last, *self._couriers),  # a courier holds the volumes that go with the container
            container=observed.id,
            name=observed.name,
            volumes=own_volumes(observed.name, self._snapshot),
            companions=own_companions(observed.run, self._snapshot),
            network=own_network(observed.name, self._snapshot),
        )
        self._removed[observed.id] = self._add(remove)

    def _gateway(self, observed: ObservedSandbox) -> str | None:
        found = self._snapshot.companion(observed.run, GATEWAY)
        return found.id if found is not None else None

    def _remove_surroundings(self, networks: list[Change], volumes: list[Change]) -> None:
        after = (*self._removed.values(), *self._couriers)
        moved = tuple(s.id for s in self._steps if isinstance(s, op.DisconnectNetwork | op.ConnectNetwork))
        for change in networks:
            if change.action is Action.DELETE and change.container is not None:
                step = op.RemoveNetwork(
                    id=f"remove {change.address}",
                    address=change.address,
                    cause=change.note,
                    needs=(*after, *moved),
                    network=change.container,
                    name=change.name,
                )
                self._add(step)
        for change in volumes:
            if change.action is Action.DELETE:
                gone = op.RemoveVolume(
                    id=f"remove {change.name}", address=change.address, cause=change.note, needs=after, name=change.name
                )
                self._add(gone)

    # -- what must be there first -----------------------------------------------------------------------------

    def _pull(self, images: list[Change], decisions: list[Decision]) -> None:
        platforms = {d.declared.spec.image: d.declared.spec.platform for d in decisions if d.declared is not None}
        helper = self._snapshot.helper
        for change in images:
            if helper is not None and change.name == helper.reference:
                continue  # it is built
            image = self._snapshot.images.get(change.name)
            step = op.PullImage(
                id=f"pull {change.name}",
                address=change.address,
                cause=change.reason.value,  # the note may hold what a registry answered this time
                reference=change.name,
                platform=platforms.get(change.name),
                digest=image.digest if image is not None else None,
            )
            self._pulls[change.name] = self._add(step)

    def _make_networks(self, networks: list[Change], decisions: list[Decision]) -> None:
        for change in networks:
            if change.action is Action.CREATE:
                self._networks[change.name] = self._create_network(change, ())
            elif change.action is Action.REPLACE:
                self._replace_network(change, decisions)

    def _create_network(self, change: Change, needs: Ids) -> str:
        key = change.address.removeprefix("network.")
        spec = self._profile.networks.get(key, NetworkSpec())
        step = op.CreateNetwork(
            id=f"create {change.address}",
            address=change.address,
            cause=change.reason.value,
            needs=needs,
            key=key,
            spec=spec,
        )
        return self._add(step)

    def _replace_network(self, change: Change, decisions: list[Decision]) -> None:
        """Detach everything that stays, make it anew, attach it again: running sandboxes keep running."""
        key = change.address.removeprefix("network.")
        self._anew.add(key)
        declared = {d.observed.id: d.declared for d in decisions if d.observed is not None and d.declared is not None}
        staying = [o for o in self._snapshot.sandboxes if key in o.spec.networks and o.id not in self._removed]
        common: dict[str, Any] = {"address": change.address, "cause": change.reason.value}
        on_it = {o.id: o.address for o in staying} | self._gateways_on(key)
        detached = tuple(
            self._add(op.DisconnectNetwork(id=f"disconnect {of} {key}", **common, container=c, network=change.name))
            for c, of in on_it.items()
        )
        assert change.container is not None
        removed = self._add(
            op.RemoveNetwork(
                id=f"remove {change.address}",
                **common,
                needs=(*detached, *self._removed.values()),
                network=change.container,
                name=change.name,
            )
        )
        created = self._create_network(change, (removed,))
        self._networks[change.name] = created
        wanted = {o.id: (declared[o.id].spec if o.id in declared else o.spec).networks.get(key) for o in staying}
        for container, of in on_it.items():
            attachment = wanted.get(container, Attachment())
            if attachment is None:
                continue
            step = op.ConnectNetwork(
                id=f"connect {of} {key}",
                **common,
                needs=(created,),
                container=container,
                network=change.name,
                attachment=attachment,
            )
            self._add(step)

    def _gateways_on(self, key: str) -> dict[str, str]:
        """The gateways of sandboxes that stay, by id, if `key` is the network they reach the outside on."""
        runs = {o.run: o.address for o in self._snapshot.sandboxes if o.id not in self._removed}
        mine = [c for c in self._snapshot.companions if c.role == GATEWAY and c.run in runs and key == EGRESS]
        return {c.id: f"{runs[c.run]} {GATEWAY}" for c in mine}

    def _make_volumes(self, volumes: list[Change]) -> None:
        for change in volumes:
            if change.action is Action.CREATE:
                key = change.address.removeprefix("volume.")
                step = op.CreateVolume(
                    id=f"create {change.address}",
                    address=change.address,
                    cause=change.reason.value,
                    key=key,
                    spec=self._profile.volumes.get(key, VolumeSpec()),
                )
                self._volumes[key] = self._add(step)

    # -- sandboxes --------------------------------------------------------------------------------------------

    def _carry_out(self, decision: Decision) -> None:
        if decision.makes and decision.declared is not None:
            self._make(decision.declared, decision)
        elif decision.change.action is Action.UPDATE and decision.declared is not None:
            self._update(decision.declared, decision)

    def _make(self, sandbox: DeclaredSandbox, decision: Decision) -> None:
        address, cause = sandbox.address, decision.change.note or decision.change.reason.value
        needs = self._before(sandbox, decision)
        for part in parts_of(sandbox):
            volume = op.CreatePart(
                id=f"volume {address} {part}", address=address, cause=cause, needs=needs, sandbox=sandbox, part=part
            )
            needs = (*needs, self._add(volume))
        wired: Ids = ()
        if GATEWAY in companions_of(sandbox.spec):
            network, gateway = self._wire(sandbox, needs, cause)
            needs, wired = (*needs, network), (gateway,)
        create = op.CreateSandbox(
            id=f"create {address}",
            address=address,
            cause=cause,
            needs=needs,
            sandbox=sandbox,
            image_id=self._image_id(sandbox.spec.image),
        )
        created = self._add(create)
        ready = [created, *wired, *self._fill(sandbox, created, cause), *self._join(sandbox, created, cause)]
        ready += self._give_volumes(sandbox, created, cause)
        ready += self._dependencies(sandbox, cause)
        start = op.StartSandbox(
            id=f"start {address}", address=address, cause=cause, needs=tuple(ready), sandbox=sandbox
        )
        self._started[address] = self._add(start)

    def _wire(self, sandbox: DeclaredSandbox, needs: Ids, cause: str) -> Ids:
        """The sandbox's network and its gateway; the steps that the sandbox needs before it is made, and started."""
        network = op.CreatePrivateNetwork(
            id=f"network {sandbox.address}", address=sandbox.address, cause=cause, needs=needs, sandbox=sandbox
        )
        made = self._add(network)
        return made, self._open_gateway(sandbox, (*needs, made), cause, run=None)

    def _helper(self) -> tuple[str, Ids]:
        """The image of gateways and keepers, and the step that builds it first, if it is not there."""
        helper = self._snapshot.helper
        assert helper is not None  # the snapshot was taken for these sandboxes
        if helper.id is not None:
            return helper.id, ()
        if helper.reference not in self._pulls:
            step = op.BuildHelper(
                id=f"build {helper.reference}",
                address=f"image.{helper.reference}",
                cause=Reason.BUILD.value,
                reference=helper.reference,
                base=helper.base,
            )
            self._pulls[helper.reference] = self._add(step)
        return helper.reference, (self._pulls[helper.reference],)

    def _open_gateway(self, sandbox: DeclaredSandbox, needs: Ids, cause: str, run: str | None) -> str:
        address, outside = sandbox.address, self._networks.get(self._profile.names.network(EGRESS))
        image, built = self._helper()
        needs = (*needs, *built)
        gateway = op.CreateGateway(
            id=f"create {address} {GATEWAY}",
            address=address,
            cause=cause,
            needs=(*needs, outside) if outside else needs,
            sandbox=sandbox,
            image=image,
            run=run,
        )
        start = op.StartGateway(
            id=f"start {address} {GATEWAY}",
            address=address,
            cause=cause,
            needs=(self._add(gateway),),
            sandbox=sandbox,
            run=run,
        )
        return self._add(start)

    def _give_volumes(self, sandbox: DeclaredSandbox, created: str, cause: str) -> list[str]:
        """A new volume is root's: whoever is the first to write to it owns it, before anyone who mounts it starts.

        One with driver options may be a host's directory or a remote one, whose owner is not ours to change.
        """
        mounts = [m for m in sandbox.spec.volumes if m.type == "volume" and m.source in self._volumes]
        for mount in mounts:
            key = mount.source or ""
            plain = not self._profile.volumes.get(key, VolumeSpec()).driver_opts
            if plain and not mount.read_only and key not in self._given:
                step = op.GiveVolume(
                    id=f"give {sandbox.address} {key}",
                    address=sandbox.address,
                    cause=cause,
                    needs=(created,),
                    sandbox=sandbox,
                    key=key,
                )
                self._given[key] = self._add(step)
        return [self._given[m.source or ""] for m in mounts if m.source in self._given]

    def _before(self, sandbox: DeclaredSandbox, decision: Decision) -> Ids:
        """What must be done before the container can be made."""
        spec, names = sandbox.spec, self._profile.names
        networks = [self._networks.get(names.network(key)) for key in spec.networks]
        volumes = [self._volumes.get(mount.source or "") for mount in spec.volumes]
        replaced = self._removed.get(decision.observed.id) if decision.observed is not None else None
        needs = (replaced, self._pulls.get(spec.image), *networks, *volumes, *self._couriers)
        return tuple(step for step in needs if step)

    def _image_id(self, reference: str) -> str | None:
        """What the reference means now; None where it is pulled first."""
        image = self._snapshot.images.get(reference)
        if image is None or image.config is None or reference in self._pulls:
            return None
        return image.config.id

    def _fill(self, sandbox: DeclaredSandbox, created: str, cause: str) -> list[str]:
        address, filled = sandbox.address, []
        if sandbox.workspace is not None:
            step = op.UploadWorkspace(
                id=f"upload {address} {WORKSPACE}", address=address, cause=cause, needs=(created,), sandbox=sandbox
            )
            filled.append(self._add(step))
        for part, files in ((SECRETS, sandbox.spec.secrets), (CONFIGS, sandbox.spec.configs)):
            if files:
                upload = op.UploadFiles(
                    id=f"upload {address} {part}",
                    address=address,
                    cause=cause,
                    needs=(created,),
                    sandbox=sandbox,
                    part=part,
                    files=files,
                )
                filled.append(self._add(upload))
        return filled

    def _join(self, sandbox: DeclaredSandbox, created: str, cause: str) -> list[str]:
        """The first network is given at creation: engines before API 1.44 take only one there."""
        return [
            self._add(
                op.ConnectNetwork(
                    id=f"connect {sandbox.address} {key}",
                    address=sandbox.address,
                    cause=cause,
                    needs=(created,),
                    container=None,
                    network=self._profile.names.network(key),
                    attachment=attachment,
                )
            )
            for key, attachment in list(sandbox.spec.networks.items())[1:]
        ]

    def _dependencies(self, sandbox: DeclaredSandbox, cause: str) -> list[str]:
        waits = []
        for address, dependency in sandbox.depends_on.items():
            started = self._started.get(address)
            step = op.AwaitSandbox(
                id=f"await {sandbox.address} {address}",
                address=sandbox.address,
                cause=cause,
                needs=(started,) if started is not None else (),
                dependency=address,
                condition=dependency.condition,
            )
            waits.append(self._add(step))
        return waits

    def _update(self, sandbox: DeclaredSandbox, decision: Decision) -> None:
        assert decision.observed is not None
        cause = decision.change.reason.value
        before = len(self._steps)
        live = tuple(d.key for d in decision.change.differences if d.effect is Effect.LIVE)
        if live:
            step = op.UpdateSandbox(
                id=f"update {sandbox.address}",
                address=sandbox.address,
                cause=cause,
                sandbox=sandbox,
                container=decision.observed.id,
                options=live,
            )
            self._add(step)
        if any(d.effect is Effect.RELOAD for d in decision.change.differences):
            self._reload(sandbox, decision.observed, cause)
        if any(d.effect is Effect.RECONNECT for d in decision.change.differences):
            self._reconnect(sandbox, decision.observed, cause)
        if not all(d.drift for d in decision.change.differences):
            record = op.RecordSpec(
                id=f"record {sandbox.address}",
                address=sandbox.address,
                cause=cause,
                needs=tuple(step.id for step in self._steps[before:]),
                sandbox=sandbox,
                run=decision.observed.run,
            )
            self._add(record)

    def _reload(self, sandbox: DeclaredSandbox, observed: ObservedSandbox, cause: str) -> None:
        """Other rules for the gateway that runs; one that does not is started again, one that is gone made anew."""
        gateway = self._snapshot.companion(observed.run, GATEWAY)
        address = sandbox.address
        if gateway is None:
            self._open_gateway(sandbox, (), cause, run=observed.run)
        elif gateway.running:
            step: op.Operation = op.ReloadGateway(
                id=f"reload {address} {GATEWAY}",
                address=address,
                cause=cause,
                sandbox=sandbox,
                container=gateway.id,
                run=observed.run,
            )
            self._add(step)
        else:
            step = op.StartGateway(
                id=f"start {address} {GATEWAY}",
                address=address,
                cause=cause,
                sandbox=sandbox,
                container=gateway.id,
                run=observed.run,
            )
            self._add(step)

    def _reconnect(self, sandbox: DeclaredSandbox, observed: ObservedSandbox, cause: str) -> None:
        before, after, names = observed.spec.networks, sandbox.spec.networks, self._profile.names
        common: dict[str, Any] = {"address": sandbox.address, "cause": cause}
        for key, attachment in before.items():
            if after.get(key) != attachment and key not in self._anew:
                network = names.network(key)
                step = op.DisconnectNetwork(
                    id=f"disconnect {sandbox.address} {key}", **common, container=observed.id, network=network
                )
                self._add(step)
        gone = {s.id for s in self._steps}
        for key, attachment in after.items():
            if before.get(key) != attachment and not (key in before and key in self._anew):
                network = names.network(key)
                detached = f"disconnect {sandbox.address} {key}"
                needs = [n for n in (self._networks.get(network), detached if detached in gone else None) if n]
                join = op.ConnectNetwork(
                    id=f"connect {sandbox.address} {key}",
                    **common,
                    needs=tuple(needs),
                    container=observed.id,
                    network=network,
                    attachment=attachment,
                )
                self._add(join)

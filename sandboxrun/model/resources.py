"""Options of resources: how much of the machine a sandbox may use."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from sandboxrun.model import convert, forms
from sandboxrun.model import placements as at
from sandboxrun.model.composite import ListOf, Pairs
from sandboxrun.model.gpus import Gpus
from sandboxrun.model.option import Effect, option
from sandboxrun.model.records import Device, DeviceType, Ulimit, Ulimits, device_target
from sandboxrun.model.types import Cpus, Integer, Size, Text, freeze

MIB = 1024**2


@attrs.frozen(kw_only=True, slots=False, eq=False, repr=False)  # a part of SandboxSpec only
class ResourceOptions:
    """Rows of resources."""

    mem_limit: int = option(
        Size(),
        default=512 * MIB,
        description="Memory, a hard limit: beyond it the sandbox is killed and reported as OOM. 0 is unlimited.",
        example="512m",
        at=at.Host("Memory", read=convert.number),
        effect=Effect.LIVE,
        together=("memswap_limit",),
        can_clear=False,
        always=True,
    )
    memswap_limit: int | None = option(
        Size(unlimited=True),
        default=None,
        description="Memory and swap together; equal to mem_limit when left out, that is no swap. -1 or unlimited is"
        " unlimited.",
        example="512m",
        at=at.Host("MemorySwap", read=convert.number),
        effect=Effect.LIVE,
        together=("mem_limit",),
        can_clear=False,
        always=True,
    )
    mem_reservation: int = option(
        Size(),
        default=0,
        description="Memory the engine tries to leave to the sandbox when the host runs short.",
        example="256m",
        at=at.Host("MemoryReservation", read=convert.number),
        effect=Effect.LIVE,
        can_clear=False,
    )
    cpus: float = option(
        Cpus(),
        default=1.0,
        description="CPU time, as a number of CPUs. 0 is unlimited.",
        example=1.5,
        at=at.Host("NanoCpus", write=convert.cpus_to_nano, read=convert.nano_to_cpus),
        effect=Effect.LIVE,
        can_clear=False,
        always=True,
    )
    cpu_shares: int = option(
        Integer(most=262144),
        default=0,
        description="Relative weight when CPUs are short; 0 is the engine's default of 1024.",
        example=512,
        at=at.Host("CpuShares", read=convert.number),
        effect=Effect.LIVE,
        can_clear=False,
    )
    cpuset: str | None = option(
        Text(
            pattern=r"[0-9]{1,6}(-[0-9]{1,6})?(,[0-9]{1,6}(-[0-9]{1,6})?)*",
            hint="CPUs, such as 0-1 or 0,2",
            numbers=True,
            form=forms.cpus,
        ),
        default=None,
        description="The CPUs it may run on.",
        example="0-1",
        at=at.Host("CpusetCpus", read=convert.form(forms.cpus)),
        effect=Effect.LIVE,
        can_clear=False,
    )
    pids_limit: int = option(
        Integer(least=-1),
        default=256,
        description="Processes and threads, in all. 0 or -1 is unlimited.",
        example=256,
        at=at.Host("PidsLimit", read=convert.pids),
        effect=Effect.LIVE,
        always=True,
    )
    ulimits: Mapping[str, Ulimit] = option(
        Ulimits,
        default=freeze({"core": Ulimit(soft=0, hard=0), "nofile": Ulimit(soft=4096, hard=4096)}),
        description="Limits of each process: open files, core dumps and so on.",
        example={"nofile": 1024, "core": {"soft": 0, "hard": 0}},
        at=at.Host("Ulimits", write=convert.to_ulimits, read=convert.from_ulimits),
        merge="map",
    )
    shm_size: int = option(
        Size(),
        default=64 * MIB,
        description="The size of /dev/shm.",
        example="64m",
        at=at.Host("ShmSize", read=convert.number),
    )
    storage_opt: Mapping[str, str] = option(
        Pairs(),
        default=freeze({}),
        description="Options of the storage driver: size bounds the writable layer where the engine has quotas.",
        example={"size": "1g"},
        at=at.Host("StorageOpt", write=dict, read=convert.mapping),
        merge="map",
    )
    oom_score_adj: int = option(
        Integer(least=0, most=1000),
        default=0,
        description="How soon the kernel picks the sandbox when the host runs out of memory; never below 0.",
        example=500,
        at=at.Host("OomScoreAdj", read=convert.number),
    )
    devices: tuple[Device, ...] = option(
        ListOf(item=DeviceType, unique=True, ordered=False, key=device_target),
        default=(),
        description="Host devices in the sandbox.",
        example=["/dev/fuse:/dev/fuse:rw"],
        at=at.Host("Devices", write=convert.to_devices, read=convert.from_devices),
        merge="append",
        always=True,
    )
    gpus: int | None = option(
        Gpus(),
        default=None,
        description="GPUs: all, or how many.",
        example="all",
        at=at.Host("DeviceRequests", write=convert.to_gpus, read=convert.from_gpus),
        always=True,
    )

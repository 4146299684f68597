"""An artefact as Markdown: what was measured, on what, and how far from the device's limit."""

from collections.abc import Iterable, Sequence

from .artefact import Latency, PeerResult, StageEntry, Sweep
from .spread import Spread

_NO_FLOOR = "-"
_BUSY = 0.5
"""Load a core, before anything is measured, from which others disturb the figures."""
NAMES = {
    "fetch": "read files",
    "prepare": "decode, resize",
    "text": "text encoders",
    "vae_encode": "VAE encode",
    "unet": "UNet",
    "vae_decode": "VAE decode",
    "composite": "composite",
    "safety": "safety check",
    "encode": "JPEG out",
    "overhead": "host overhead",
}
"""Of the stages, in tables and plots."""


def latency(found: Latency) -> str:
    """One configuration: headline, stages, what else was measured, peers."""
    lines = [
        headline(found),
        "",
        "| stage | median ms | p90 | p99 | at least, ms | of this device's limit |",
        "|---|---|---|---|---|---|",
    ]
    for stage in found.stages:
        lines += _stage_rows(stage, found)
    lines.append(
        f"| **total** | **{_ms(found.total.median)}** | {_ms(found.total.p90)} "
        f"| {_ms(found.total.p99)} | {_ms(found.floor_s)} | {_share(found.share)} |"
    )
    lines += ["", *_facts(found)]
    if found.peers:
        lines += ["", *peers(found.peers)]
    return "\n".join(lines) + "\n"


def headline(found: Latency) -> str:
    """What ran where, in one sentence."""
    width, height = found.workload["size"]
    machine = found.machine
    gpu = machine["gpu"]
    place = machine["machine"] if gpu is None else f"{gpu['name']}, {machine['machine']}"
    low = ", low memory mode" if found.engine["low_memory"] else ""
    batch = found.workload["batch"]
    several = "" if batch == 1 else f", {batch} pictures"
    return (
        f"`{found.engine['bundle']}` on {found.engine['device']} "
        f"({found.engine['arithmetic']}{low}), {width}x{height}{several}, "
        f"{found.workload['steps']} steps at strength {found.workload['strength']:g} "
        f"({found.effective_steps} UNet calls); {place}; {found.created:%Y-%m-%d}; "
        f"{found.total.count} requests after {found.warmups} warm-ups."
    )


def _stage_rows(stage: StageEntry, found: Latency) -> list[str]:
    row = (
        f"| {NAMES[stage.name]}{_times(stage, found)} | {_ms(stage.seconds.median)} "
        f"| {_ms(stage.seconds.p90)} | {_ms(stage.seconds.p99)} | {_ms(stage.floor_s)} "
        f"| {_share(stage.share)} |"
    )
    if stage.per_call is None:
        return [row]
    floor = None if stage.floor_s is None else stage.floor_s / found.effective_steps
    share = None if floor is None else floor / stage.per_call.median
    call = (
        f"| UNet, one call | {_ms(stage.per_call.median)} | {_ms(stage.per_call.p90)} "
        f"| {_ms(stage.per_call.p99)} | {_ms(floor)} | {_share(share)} |"
    )
    return [row, call]


def _times(stage: StageEntry, found: Latency) -> str:
    return f" x {found.effective_steps}" if stage.name == "unet" else ""


def _facts(found: Latency) -> list[str]:
    facts = [
        f"Limit of the {limit.device}: {limit.flops / 1e9:.0f} GFLOP/s, "
        f"{limit.bytes / 1e9:.1f} GB/s ({'; '.join(limit.sources)})."
        for limit in found.limits
    ]
    load, cores = found.machine["load_average"], found.machine["cores"]
    if load is not None and load > _BUSY * cores:
        facts.append(
            f"**The machine was busy** when this began (load average {load:.1f} on {cores} cores): "
            "times are too long, and limits may be too low."
        )
    if cold := found.cold_start:
        facts.append(
            f"Cold start, `lightfill inpaint` in a new process to the picture on disk: "
            f"{cold.seconds.median:.2f} s, of which {cold.before.median:.2f} s before the request; "
            f"peak memory {_gb(cold.peak_bytes)}."
        )
    if found.second_prompt:
        facts.append(
            f"Second prompt on the same photo: {_ms(found.second_prompt.median)} ms "
            f"(VAE encode saved)."
        )
    facts.append(f"Peak memory of the warm process: {_gb(found.peak_host_bytes)}.")
    facts += [
        f"On the GPU itself (CUDA events), one execution of {component}: {_ms(seconds.median)} ms."
        for component, seconds in found.device_execution.items()
    ]
    if found.peak_device_bytes is not None:
        facts.append(f"GPU memory: {_gb(found.peak_device_bytes)}.")
    facts += [
        f"Energy of a request, {name}: {joules.median:.1f} J."
        for name, joules in found.energy.joules.items()
    ]
    if found.energy.reason:
        facts.append(f"Energy was not measured: {found.energy.reason}.")
    facts += [f"{NAMES[s.name]}: no limit, because {s.reason}." for s in found.stages if s.reason]
    facts.append(
        "Versions: "
        + ", ".join(f"{name} {v}" for name, v in found.machine["versions"].items())
        + "."
    )
    return [f"- {fact}" for fact in facts]


def peers(found: Sequence[PeerResult]) -> list[str]:
    """A row a peer: ratios are the medians of pairs, peer over lightfill."""
    columns = ("peer", "its median ms", "lightfill's, in turns", "ratio, pair by pair", "memory")
    lines = [
        f"| {' | '.join(columns)} | picture |",
        "|---|---|---|---|---|---|",
    ]
    for peer in found:
        if peer.seconds is None or peer.ours is None or peer.ratios is None:
            reason = " ".join((peer.reason or "").split())  # a cell is one line
            lines.append(f"| {peer.name} | did not run: {reason} | | | | |")
            continue
        picture = "not compared" if peer.psnr_db is None else f"{peer.psnr_db:.0f} dB"
        memory = "" if peer.peak_bytes is None else _gb(peer.peak_bytes)
        ratios = peer.ratios
        lines.append(
            f"| {peer.name} | {_ms(peer.seconds.median)} | {_ms(peer.ours.median)} "
            f"| {ratios.median:.2f} ({ratios.least:.2f} to {ratios.most:.2f}) "
            f"| {memory} | {picture} |"
        )
    notes = [f"- {peer.name}: {peer.note}." for peer in found if peer.note]
    return [*lines, *([""] if notes else []), *notes]


def sweep(found: Sweep) -> str:
    """How cost grows with one thing."""
    width, height = found.workload["size"]
    headline = (
        f"`{found.engine['bundle']}` on {found.engine['device']}, by {found.varies}; else "
        f"{width}x{height}, {found.workload['steps']} steps; {found.machine['machine']}; "
        f"{found.created:%Y-%m-%d}."
    )
    lines = [
        headline,
        "",
        f"| {found.varies} | median ms | p90 | ms a picture | requests a second |",
        "|---|---|---|---|---|",
    ]
    for point in found.points:
        if point.seconds is None:
            reason = " ".join((point.reason or "").split())
            lines.append(f"| {point.label} | not measured: {reason} | | | |")
            continue
        rate = "" if point.requests_per_s is None else f"{point.requests_per_s:.2f}"
        lines.append(
            f"| {point.label} | {_ms(point.seconds.median)} | {_ms(point.seconds.p90)} "
            f"| {_ms(point.per_picture)} | {rate} |"
        )
    return "\n".join(lines) + "\n"


def comparison(rows: Iterable[tuple[str, Spread, Spread]], names: tuple[str, str]) -> str:
    """Two artefacts side by side; ratio is the second's median over the first's."""
    lines = [
        f"| stage | {names[0]}, ms | {names[1]}, ms | ratio |",
        "|---|---|---|---|",
    ]
    for name, first, second in rows:
        ratio = f"{second.median / first.median:.2f}" if first.median else _NO_FLOOR
        lines.append(f"| {name} | {_ms(first.median)} | {_ms(second.median)} | {ratio} |")
    return "\n".join(lines) + "\n"


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return _NO_FLOOR
    milliseconds = seconds * 1000
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def _share(share: float | None) -> str:
    if share is None:
        return _NO_FLOOR
    return f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.1g} %"


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB"

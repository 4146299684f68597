"""Checkpoints become a bundle: planned, then made component by component, then published at once.

A killed export leaves no bundle that looks finished, and what it had finished is not made again.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from ..engine.atomic_write import write_atomically
from ..engine.bundle import Bundle
from ..engine.errors import ExportError
from ..engine.manifest import (
    SCHEMA_VERSION,
    FileEntry,
    Manifest,
    Tokenizer,
    Vae,
)
from .component_writer import make_component, stored_bytes
from .existing import check_plan, check_request, existing_bundle, has
from .graph import OPSET
from .graph_cache import EXPORTER_PACKAGES
from .licences import write_licences, write_notice
from .part import Part
from .plan import Plan, make_addition, make_plan
from .progress import ComponentReport, ExportReport, Progress
from .request import ExportRequest
from .staging import Record, Staging, file_entry, left_behind
from .tokenizer_files import TokenizerFile

_SPARE_BYTES = 64 << 20  # graphs, tokenizers, licences


def export_bundle(request: ExportRequest, progress: Progress | None = None) -> ExportReport:
    """Make the bundle `request.out`, or add to it what it lacks. Raises ExportError."""
    progress = progress or Progress()
    out = request.out
    existing = existing_bundle(out)
    plan = _plan(request, existing)
    missing = [part for part in plan.parts if not (existing and has(existing, part, request))]
    reports = _kept(existing, plan, missing)
    if existing:
        check_plan(existing, plan)
    for report in reports:
        progress.end(report)
    try:
        if not existing or _adds(existing, plan, missing) or left_behind(out) is not None:
            _check_space(out, missing, request)
            reports += _write(request, existing, plan, missing, progress)
    except OSError as error:
        raise ExportError(
            f"{out} cannot be written ({error}); free space or choose another --out, then run the "
            "same command again: finished components are kept"
        ) from error
    return ExportReport(out, tuple(reports))


def _plan(request: ExportRequest, existing: Bundle | None) -> Plan:
    if existing is None:
        return make_plan(request)
    check_request(existing, request)
    if request.base is None and request.synthetic is None:
        return make_addition(request, existing.manifest)
    return make_plan(request)


def _adds(existing: Bundle, plan: Plan, missing: Sequence[Part]) -> bool:
    return bool(missing) or not plan.steps.items() <= existing.manifest.steps.items()


def _write(
    request: ExportRequest,
    existing: Bundle | None,
    plan: Plan,
    missing: Sequence[Part],
    progress: Progress,
) -> list[ComponentReport]:
    """Make what is missing, under the lock; only then does the bundle appear or change."""
    reports = []
    with Staging.of(request.out) as staging:
        _check_unchanged(existing, request.out)
        if existing:
            staging.adopt(existing.manifest.components)
        records = {}
        for part in missing:
            records[part.name], report = make_component(part, staging, request, progress)
            reports.append(report)
            progress.end(report)
        if existing is None:
            _publish(plan, records, staging, request)
        elif _adds(existing, plan, missing):
            _extend(existing, plan, missing, records, staging)
    return reports


def _check_unchanged(existing: Bundle | None, out: Path) -> None:
    """Under the lock: what the plan was made for is still there."""
    now = existing_bundle(out)
    if (now and now.manifest) != (existing and existing.manifest):
        raise ExportError(f"{out} was changed by another export; run the same command again")


def _kept(existing: Bundle | None, plan: Plan, missing: Sequence[Part]) -> list[ComponentReport]:
    """What of the plan is there already."""
    manifest = existing.manifest if existing else None
    return [
        ComponentReport(
            name=part.name,
            bytes=manifest.files[manifest.components[part.name].weights].bytes,
            verification=tuple(manifest.components[part.name].verification),
        )
        for part in plan.parts
        if manifest and part not in missing
    ]


def _check_space(out: Path, parts: Sequence[Part], request: ExportRequest) -> None:
    needed = _SPARE_BYTES + sum(stored_bytes(part, request) for part in parts)
    needed -= left_behind(out) or 0
    directory = next(parent for parent in Path(os.path.realpath(out)).parents if parent.exists())
    free = shutil.disk_usage(directory).free
    if parts and free < needed:
        raise ExportError(
            f"{out} needs {needed / 1e9:.1f} GB, {directory} has {free / 1e9:.1f} GB free; free "
            "some or choose another --out"
        )


def _publish(
    plan: Plan, records: Mapping[str, Record], staging: Staging, request: ExportRequest
) -> None:
    """Complete a new bundle and give it its name."""
    root = staging.bundle
    tokenizers = _write_tokenizers(plan.tokenizers, plan.parts, root)
    licences = [*write_licences(root, plan.licensed), write_notice(root, plan.parts, "NOTICE.md")]
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=request.bundle_name,
        natural_size=plan.natural_size,
        source=plan.source,
        made_with={"opset": str(OPSET), **{name: version(name) for name in EXPORTER_PACKAGES}},
        components={name: record.component for name, record in records.items()},
        steps=dict(sorted(plan.steps.items())),
        tokenizers=tokenizers,
        scheduler=plan.scheduler,
        vae=Vae(scaling_factor=plan.vae_scaling_factor),
        licences=licences,
        files=_files(records, root, [*(t.file for t in tokenizers.values()),
                                     *(licence.file for licence in licences)]),
    )  # fmt: skip
    staging.publish(manifest)


def _extend(
    existing: Bundle,
    plan: Plan,
    parts: Sequence[Part],
    records: Mapping[str, Record],
    staging: Staging,
) -> None:
    """What the bundle gains: finished components, tokenizers, licences, step counts."""
    old, root = existing.manifest, staging.bundle
    tokenizers = _write_tokenizers({}, parts, root)
    known = {licence.file: existing.root / licence.file for licence in old.licences}
    licences = write_licences(root, plan.licensed, known)
    notice = f"NOTICE-{'-'.join(records)}.md"
    licences += [write_notice(root, parts, notice)] if parts else []
    added = [*(t.file for t in tokenizers.values()), *(licence.file for licence in licences)]
    manifest = old.model_copy(
        update={
            "components": {
                **old.components,
                **{name: record.component for name, record in records.items()},
            },
            "steps": dict(sorted({**old.steps, **plan.steps}.items())),
            "tokenizers": {**old.tokenizers, **tokenizers},
            "licences": [*old.licences, *licences],
            "files": dict(sorted({**old.files, **_files(records, root, added)}.items())),
        }
    )
    staging.merge(manifest, records)


def _files(
    records: Mapping[str, Record], root: Path, others: Sequence[str]
) -> dict[str, FileEntry]:
    listed = {path: entry for record in records.values() for path, entry in record.files.items()}
    return dict(sorted({**listed, **{path: file_entry(root / path) for path in others}}.items()))


def _write_tokenizers(
    shared: Mapping[str, TokenizerFile], parts: Sequence[Part], root: Path
) -> dict[str, Tokenizer]:
    """Every tokenizer's entry; SDXL's two share one vocabulary, which is then written once."""
    own = {part.name: part.tokenizer for part in parts if part.tokenizer is not None}
    files: dict[str, str] = {}
    entries = {}
    for role, tokenizer in {**shared, **own}.items():
        if tokenizer.text not in files:
            name = "tokenizer" if role in shared and not files else role
            files[tokenizer.text] = f"tokenizer/{name}.json"
            write_atomically(root / files[tokenizer.text], tokenizer.text.encode())
        entries[role] = Tokenizer(
            file=files[tokenizer.text],
            special_tokens=tokenizer.special_tokens,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    return entries

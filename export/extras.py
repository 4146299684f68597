"""The two optional parts: a safety checker, and a language model that expands prompts."""

from ..engine.manifest import Source
from .base import read_config
from .part import Part
from .prompt_expander import canonical_prompt_expander
from .repositories import Repository, open_repository, weight_files
from .request import ExportRequest
from .safety_checker import canonical_safety_checker
from .tensors import FileWeights
from .tokenizer_files import gpt2_tokenizer


def extra_parts(request: ExportRequest, licensed: list[Repository]) -> list[Part]:
    """The parts that were asked for; their sources' licence texts are added to `licensed`."""
    parts = []
    for role, spec, arrange in (
        ("safety_checker", request.safety_checker, canonical_safety_checker),
        ("prompt_expander", request.prompt_expander, canonical_prompt_expander),
    ):
        if spec is None:
            continue
        files = open_repository(spec, local_files_only=request.local_files_only)
        config = read_config(files, "")
        names = weight_files(files, "", prefer_half=request.weights == "float16")
        weights = FileWeights([files.fetch(name) for name in names], files.name, arrange)
        tokenizer = None
        if role == "prompt_expander":
            tokenizer = gpt2_tokenizer(files, int(config.get("vocab_size", 0)))
        source = Source(checkpoint=files.name, revision=files.revision)
        parts.append(Part(role, role, config, weights, source, tokenizer=tokenizer))
        licensed.append(files)
    return parts

"""Prompt expansion: a short prompt lengthened with wording that diffusion models respond to.

A bundle with a `prompt_expander` continues the prompt with that language model; any other appends
words from a fixed list (`STYLES`). Either way the prompt's own words come first and unchanged, what
is added always fits into both text encoders' windows, and one prompt has one expansion whatever the
seed: so picture k of `num_images` stays what `seed + k` alone gives.
"""

import hashlib
import random
import re
import threading
from collections.abc import Callable, Iterable, Mapping

from tokenizers import Tokenizer

from .bundle import Bundle
from .errors import BundleCorrupt, ComponentMissing
from .language_model import LanguageModel
from .sessions import Session, SessionOptions, open_session

COMPONENT = "prompt_expander"
Fits = Callable[[str], bool]
"""Whether a prompt has room in both text encoders' windows of 77 tokens."""

STYLES: Mapping[str, tuple[str, ...]] = {
    "photograph": (
        "highly detailed", "sharp focus", "natural lighting", "realistic textures",
        "high resolution photograph",
    ),
    "painting": (
        "highly detailed", "intricate brushwork", "rich colors", "balanced composition", "fine art",
    ),
    "drawing": (
        "highly detailed", "clean lines", "vivid colors", "careful shading",
        "professional illustration",
    ),
    "render": (
        "highly detailed", "global illumination", "realistic materials", "soft shadows",
        "high resolution render",
    ),
}  # fmt: skip
"""What is appended without a language model: by the medium that the prompt names."""
_MEDIA: Mapping[str, str] = {
    "painting": "painting|painted|watercolou?r|oil on canvas|acrylic|gouache|fresco|impressionist",
    "drawing": "drawing|drawn|sketch|illustration|cartoon|comic|anime|manga|line art|pixel art",
    "render": "render|rendered|3d|cgi|low poly|isometric",
}
_ENDS = ",.;:!?\u3002\uff0c\uff01\uff1f"


class PromptExpander:
    """Lengthens prompts with a bundle's language model or, where it has none, a list of words.

    The model is loaded on the CPU by the first prompt and kept, or, with `keep=False`, freed after
    each prompt. Thread-safe.
    """

    def __init__(
        self, bundle: Bundle, options: SessionOptions | None = None, *, keep: bool = True
    ) -> None:
        self._bundle = bundle
        self._options = options
        self._keep = keep
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._model: LanguageModel | None = None

    def expand(self, prompt: str, fits: Fits) -> str:
        """`prompt` with words added to it, or itself: if it is empty, or leaves no room.

        Raises what `open_session` does when the bundle's model cannot be loaded.
        """
        if not prompt.strip() or not fits(prompt):
            return prompt
        if COMPONENT not in self._bundle.manifest.components:
            return with_style(prompt, fits)
        with self._lock:
            try:
                return continued(prompt, self._loaded(), fits)
            finally:
                if not self._keep:
                    self._free()

    def close(self) -> None:
        """Free the model; a prompt that is being expanded ends first. Closing twice is fine."""
        with self._lock:
            self._free()

    def _loaded(self) -> LanguageModel:
        if self._model is None:
            tokenizer = self._tokenizer()
            self._session = open_session(self._bundle, COMPONENT, "cpu", self._options)
            entry = self._bundle.manifest.tokenizers["prompt_expander"]
            self._model = LanguageModel(self._session, tokenizer, entry)
        return self._model

    def _tokenizer(self) -> Tokenizer:
        entry = self._bundle.manifest.tokenizers.get("prompt_expander")
        if entry is None:
            raise ComponentMissing(
                f"bundle {self._bundle.manifest.name!r} has a prompt expander without its "
                "tokenizer; export the bundle again"
            )
        path = self._bundle.root / entry.file
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleCorrupt(f"{path} is not a tokenizer ({error}); export it again") from error
        tokenizer.add_special_tokens(entry.special_tokens)
        return tokenizer

    def _free(self) -> None:
        session, self._session, self._model = self._session, None, None
        if session is not None:
            session.close()


def continued(prompt: str, model: LanguageModel, fits: Fits) -> str:
    """`prompt` and the model's continuation: whole phrases, none twice, as many as fit.

    The random numbers are drawn from the prompt's SHA-256, so a prompt is always continued alike
    on one machine; another processor may round a probability differently, and draw another word.
    """
    lead = prompt.rstrip()
    text = lead if lead[-1] in _ENDS else f"{lead},"
    draw = random.Random(seed_of(prompt))  # noqa: S311 - wording, no secret
    longest, taken, complete = "", 0, False
    for continuation in model.continuations(text, draw):
        if not fits(f"{text} {continuation}"):
            break
        longest, taken = continuation, taken + 1
    else:
        complete = taken < model.max_new_tokens
    phrases = longest.split(",")
    if not complete and len(phrases) > 1:
        phrases.pop()  # half of one
    elif not complete:
        phrases = [longest.rpartition(" ")[0]]  # half a word
    return _joined(lead, text, phrases, fits)


def seed_of(prompt: str) -> int:
    """Of the random numbers that continue `prompt`: Python keeps their stream for ever."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8])


def with_style(prompt: str, fits: Fits) -> str:
    """`prompt` and the words of `STYLES` for the medium it names, as many as fit, none twice."""
    lead = prompt.rstrip()
    text = lead if lead[-1] in _ENDS else f"{lead},"
    return _joined(lead, text, STYLES[_medium(prompt)], fits)


def _medium(prompt: str) -> str:
    """The first of `_MEDIA` that the prompt names, else a photograph."""
    words = prompt.casefold()
    for medium, names in _MEDIA.items():
        if re.search(rf"\b(?:{names})(?:e?s)?\b", words):
            return medium
    return "photograph"


def _joined(lead: str, text: str, phrases: Iterable[str], fits: Fits) -> str:
    """`text` and the phrases that are new and fit; `lead` where there is none."""
    said = text.casefold()
    added: list[str] = []
    for phrase in phrases:
        plain = " ".join(phrase.split()).strip(" .;:-|")
        if not plain or plain.casefold() in said:
            continue
        if not fits(f"{text} {', '.join([*added, plain])}"):
            break
        added.append(plain)
        said += f" {plain.casefold()}"
    return f"{text} {', '.join(added)}" if added else lead

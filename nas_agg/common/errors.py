"""Exceptions with one-line messages and exit statuses, and helpers for their messages."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator
from itertools import islice

MAX_SHOWN = 60  # characters of a value that are shown in a message

_SECRETS = re.compile(r"(?<=://)([^/\s:@]*):\S*@|(?i:(?<=password=)|(?<=passwd=))[^&\s]+")


class NasAggError(Exception):
    """A failure; its message is one line for the user (exit status 1)."""

    status = 1

    def __str__(self) -> str:
        return redact(one_line(super().__str__()))


class ProcessLost(NasAggError):
    """Another process of a training by several has ended."""


class InputError(NasAggError, ValueError):
    """An invalid argument, file or setting (exit status 2)."""

    status = 2


class GenotypeError(InputError):
    """An invalid genotype or space.

    Args:
        problem: What is wrong, and how to correct it.
        where: Path of the field as it was written, for instance ``let.block.unit[2].out``.
        used_at: Where that text is used, outermost first, for instance ``("net[4]", "node 1")``.
    """

    def __init__(self, problem: str, where: str = "", used_at: tuple[str, ...] = ()):
        self.problem, self.where, self.used_at = problem, where, used_at
        location = " ".join([where, f"({', '.join(used_at)})"] if used_at else [where]).strip()
        super().__init__(one_line(f"{location}: {problem}" if location else problem))

    def __reduce__(self) -> tuple:
        return type(self), (self.problem, self.where, self.used_at)

    def within(self, *outer: str) -> GenotypeError:
        """Return the same error with further enclosing places in front of ``used_at``."""
        return type(self)(self.problem, self.where, (*outer, *self.used_at))


def redact(text: str) -> str:
    """Replace passwords in URLs of storages by ``***``."""
    return _SECRETS.sub(lambda match: f"{match[1]}:***@" if match[1] is not None else "***", text)


def one_line(text: str) -> str:
    """Escape line ends and other control characters."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class GenotypeSyntaxError(GenotypeError):
    """A text outside the language: an unknown word or field, or a value of the wrong type."""


def truncate(text: str) -> str:
    """Shorten a text to ``MAX_SHOWN`` characters."""
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def located(error: GenotypeError, where: str) -> GenotypeError:
    """Return an error of a word, whose path is relative to the word, with its full path."""
    if error.where and not error.where.startswith("."):
        return error
    return GenotypeError(error.problem, where + error.where, error.used_at)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint to append to a message, ``; did you mean 'conv'?``, or nothing if no known word is similar."""
    word = str(word)
    if len(word) > MAX_SHOWN:
        return ""
    # Comparing takes time: only a limited number of words whose length allows them to be similar.
    candidates = islice((text for text in known if 3 * len(word) <= 7 * len(text) <= 49 * len(word) / 3), 500)
    matches = difflib.get_close_matches(word, sorted(candidates), n=1, cutoff=0.6)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error reports exhausted memory; torch's CPU allocator has no exception type of its own."""
    message = str(error)
    # "Storage size ...": the number of bytes overflows its type.
    reported = ("memory" in message and "alloc" in message) or "Storage size" in message
    return reported or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


@contextlib.contextmanager
def explain_out_of_memory(what: str, remedy: str = "use a smaller network or smaller images") -> Iterator[None]:
    """Turn an out-of-memory error into one line with a remedy."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, NasAggError) or not is_out_of_memory(error):
            raise
        raise NasAggError(f"{what}: out of memory; {remedy}") from None

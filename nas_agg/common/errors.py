"""What nas_agg says when something is wrong: one line, and an exit status."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator
from itertools import islice

LONGEST = 60  # characters of a text shown in an error

_SECRETS = re.compile(r"(?<=://)([^/\s:@]*):\S*@|(?i:(?<=password=)|(?<=passwd=))[^&\s]+")


class NasAggError(Exception):
    """The work could not be done; the message is one line for the user (exit status 1)."""

    status = 1

    def __str__(self) -> str:
        return hidden(one_line(super().__str__()))


class InputError(NasAggError, ValueError):
    """The call, a file or a setting is wrong (exit status 2)."""

    status = 2


class GenotypeError(InputError):
    """A genotype, or a space's text, is not a network.

    Args:
        what: What is wrong and what would be right.
        where: The path of the field as it was written, for instance ``let.block.unit[2].out``.
        used: Where that text is used, outermost first, for instance ``("net[4]", "node 1")``.
    """

    def __init__(self, what: str, where: str = "", used: tuple[str, ...] = ()):
        self.what, self.where, self.used = what, where, used
        place = " ".join([where, f"({', '.join(used)})"] if used else [where]).strip()
        super().__init__(one_line(f"{place}: {what}" if place else what))

    def __reduce__(self) -> tuple:
        return type(self), (self.what, self.where, self.used)

    def within(self, *used: str) -> GenotypeError:
        """The same error, seen from further out."""
        return type(self)(self.what, self.where, (*used, *self.used))


def hidden(text: str) -> str:
    """A text that may name a storage by its URL, without passwords."""
    return _SECRETS.sub(lambda found: f"{found[1]}:***@" if found[1] is not None else "***", text)


def one_line(text: str) -> str:
    """A text with line ends and other control characters written out."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class WrongText(GenotypeError):
    """A text is none of the language, whatever the numbers: an unknown word or field, or a value of another kind."""


def cut(text: str) -> str:
    """A text, cut where it is long."""
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def placed(error: GenotypeError, where: str) -> GenotypeError:
    """An error of a word, which knows at most its field, with the word's place."""
    if error.where and not error.where.startswith("."):
        return error
    return GenotypeError(error.what, where + error.where, error.used)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint to append to an error: ``; did you mean 'conv'?``, or nothing if no known word is near."""
    word = str(word)
    if len(word) > LONGEST:
        return ""
    # Comparing takes time: only words that are not too short or long to be near, and not too many of them.
    alike = islice((text for text in known if 3 * len(word) <= 7 * len(text) <= 49 * len(word) / 3), 500)
    near = difflib.get_close_matches(word, sorted(alike), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; a CPU's allocator has no exception of its own."""
    said = str(error)
    told = ("memory" in said and "alloc" in said) or "Storage size" in said  # of more bytes than are counted
    return told or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


@contextlib.contextmanager
def no_room(what: str, instead: str = "a smaller network is wanted, or smaller images") -> Iterator[None]:
    """Says in one line that memory ran out, where it does, and what would do."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, NasAggError) or not out_of_memory(error):
            raise
        raise NasAggError(f"{what}: memory ran out; {instead}") from None

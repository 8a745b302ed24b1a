"""The one exception a user is meant to read: a sentence saying what was found, what was expected, what to do."""

from collections.abc import Sequence


def one_line(text: str) -> str:
    """`text` with all that is not printable escaped: a name in a file must not write lines of its own."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class AurepError(Exception):
    """Wrong usage or unreadable input. The command line prints it, a line and perhaps a list, and exits with 2."""

    def __init__(self, sentence: str = "", listed: Sequence[str] = ()) -> None:
        super().__init__("\n".join(one_line(line) for line in (sentence, *listed)))


class Diverged(AurepError):
    """Training failed: a loss became NaN or infinite. The command line exits with 1."""


class Collapsed(Diverged):
    """A student ended at chance, or far below its teacher."""

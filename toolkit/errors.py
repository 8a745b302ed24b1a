"""The one exception a user is meant to read: a sentence saying what was found, what was expected, what to do."""


class AurepError(Exception):
    """Wrong usage or unreadable input. The command line prints it as one line and exits with 2."""


class Diverged(AurepError):
    """Training failed: a loss became NaN or infinite. The command line exits with 1."""


class Collapsed(Diverged):
    """A student ended at chance, or far below its teacher."""

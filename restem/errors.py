"""Errors that a person can mend."""


class UserError(Exception):
    """Bad input: a flag, a gin name, a missing file, a bad record.

    The message is one line that names what is wrong, where, and the remedy. The command line
    prints it and exits with code 2; nothing already written is lost.
    """

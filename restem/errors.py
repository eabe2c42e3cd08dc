"""Errors that the user can fix."""


class UserError(Exception):
    """Bad input: a flag, a gin name, a missing file, a bad record.

    The message is one line that names the file or setting, the fault and the remedy. The command
    line prints it and exits with code 2; nothing already written is lost.
    """

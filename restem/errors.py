"""Errors that end a command with one line: bad input and faults of the machine."""


class UserError(Exception):
    """Bad input: a flag, a gin name, a missing file, a bad record.

    The message is one line that names the file or setting, the fault and the remedy. The command
    line prints it and exits with code 2; nothing already written is lost.
    """

    exit_code = 2


class MachineError(Exception):
    """A fault of the machine: a full disk, a failing device, too little memory.

    The message is one line that names the file, the fault and the remedy. The command line prints
    it and exits with code 74; once the fault is removed, the same command continues.
    """

    exit_code = 74
    """EX_IOERR of sysexits.h."""

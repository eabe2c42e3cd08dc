"""Commands of gcloud, kubectl and docker, to run or to print."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence

from restem.errors import UserError

_INSTALL = {
    "gcloud": "https://cloud.google.com/sdk/docs/install",
    "kubectl": "gcloud components install kubectl gke-gcloud-auth-plugin",
    "docker": "https://docs.docker.com/engine/install/",
}


_LAST_WORDS_S = 5.0


def require(program: str) -> None:
    """Checks that a program is installed.

    Raises:
      UserError: it is not; the message says how to install it.
    """
    if not shutil.which(program):
        raise UserError(f"{program} is not installed: {_INSTALL[program]}")


def text(argv: Sequence[str], stdin: str | None = None) -> str:
    """Returns the command as it can be pasted into a shell."""
    line = shlex.join(argv)
    return line if stdin is None else f"{line} <<'END'\n{stdin.rstrip()}\nEND"


def run(argv: Sequence[str], *, stdin: str | None = None) -> None:
    """Runs a command whose output the user sees.

    Raises:
      UserError: it is not installed, or failed.
    """
    require(argv[0])
    print(f"+ {shlex.join(argv)}", flush=True)
    code = subprocess.run(argv, input=stdin, text=True).returncode
    if code:
        raise UserError(f"{shlex.join(argv[:5])} ... failed with exit code {code}; see above")


def ask(argv: Sequence[str]) -> tuple[int, str, str]:
    """Runs a command that answers a question; returns its exit code, output and errors.

    Raises:
      UserError: it is not installed.
    """
    require(argv[0])
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout, done.stderr


@contextlib.contextmanager
def background(argv: Sequence[str]) -> Iterator[None]:
    """Runs a command in the background of the context, with its output shown to the user.

    When the context ends, the command has some seconds to show the rest, then it is stopped.

    Raises:
      UserError: it is not installed.
    """
    require(argv[0])
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        yield
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LAST_WORDS_S)
    finally:
        process.terminate()
        process.wait()


def show(argv: Sequence[str]) -> int:
    """Runs a command that may fail, with its output shown to the user; returns its exit code.

    Raises:
      UserError: it is not installed.
    """
    require(argv[0])
    return subprocess.run(argv, stdin=subprocess.DEVNULL).returncode

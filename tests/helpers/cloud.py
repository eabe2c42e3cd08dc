"""Stand-ins for gcloud, kubectl and docker that record their calls and refuse unknown flags.

They are programs in a folder at the front of PATH. The known flags of each command are in
tests/golden/cloud_flags.json. A slice of Cloud TPU VMs is one folder per host, in which the
commands sent by ssh really run.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
FLAGS = json.loads((ROOT / "tests" / "golden" / "cloud_flags.json").read_text())
QUEUE = ("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
"""States of a queued resource, one per description."""


class Cloud:
    """The stand-ins and their records, in a folder."""

    def __init__(self, folder: pathlib.Path, *, hosts: int = 1, port: int = 0):
        """Makes the stand-ins.

        Args:
          folder: an empty folder.
          hosts: number of hosts of a slice.
          port: port of the coordinator; on a real slice JAX finds it by itself.
        """
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        (folder / "settings.json").write_text(json.dumps({"hosts": hosts, "port": port}))
        for name in ("gcloud", "kubectl", "docker", "sudo"):
            program = self.bin / name
            program.write_text(
                f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
                f"from tests.helpers import cloud\n"
                f"sys.exit(cloud.main({name!r}, {str(folder)!r}, sys.argv[1:]))\n"
            )
            program.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"}

    def calls(self, program: str | None = None) -> list[list[str]]:
        """The command lines so far."""
        log = self.folder / "calls.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        found = [json.loads(line) for line in lines]
        return [call for call in found if program in (None, call[0])]

    def answer(self, name: str, *answers: object) -> None:
        """Sets the next answers of a program, one per call; the last one is repeated."""
        (self.folder / f"{name}.answers").write_text(json.dumps(answers))

    def host(self, number: int) -> pathlib.Path:
        """Home folder of a host of the slice."""
        return self.folder / f"host{number}"

    def take_away(self) -> None:
        """The slice is preempted: its processes die and its disks are gone."""
        _drop_hosts(self.folder)
        _write_states(self.folder, ["SUSPENDED"])


def main(program: str, folder: str, argv: list[str]) -> int:
    here = pathlib.Path(folder)
    if program == "sudo":
        return subprocess.run(argv).returncode
    with (here / "calls.jsonl").open("a") as log:
        log.write(json.dumps([program, *argv]) + "\n")
    try:
        command, places, flags = parse(program, argv)
    except ValueError as e:
        print(f"{program}: {e}", file=sys.stderr)
        return 2
    if program == "gcloud":
        return _gcloud(here, command, places, flags)
    if command == "kubectl apply":
        (here / "applied.yaml").write_text(sys.stdin.read())
    return _scripted(here, program, command)


def parse(program: str, argv: list[str]) -> tuple[str, list[str], dict[str, str]]:
    """A command line's command, other words, and flags.

    Raises:
      ValueError: the command or a flag is unknown, or a flag lacks a value or has one too many.
    """
    known = [c for c in FLAGS if [program, *argv][: len(c.split())] == c.split()]
    if not known:
        raise ValueError(f"unknown command {argv}")
    command = max(known, key=len)
    places, flags = [], {}
    for word in argv[len(command.split()) - 1 :]:
        if not word.startswith("--"):
            places.append(word)
            continue
        name, equals, value = word.partition("=")
        kind = FLAGS[command].get(name)
        if kind is None:
            raise ValueError(f"unrecognized arguments: {name} of {command}")
        if (kind == "bool") == bool(equals):
            raise ValueError(f"{name} of {command} takes {'no' if equals else 'a'} value")
        if isinstance(kind, list) and value not in kind:
            raise ValueError(f"{name}={value}: not one of {kind}")
        flags[name] = value
    return command, places, flags


def _scripted(folder: pathlib.Path, program: str, command: str) -> int:
    """Gives the answer that the test has set: {"code": 0, "output": "", "errors": ""}."""
    for name in (command.replace(" ", "_"), program):
        file = folder / f"{name}.answers"
        if file.exists():
            answers = json.loads(file.read_text())
            if len(answers) > 1:
                file.write_text(json.dumps(answers[1:]))
            sys.stdout.write(answers[0].get("output", ""))
            sys.stderr.write(answers[0].get("errors", ""))
            return answers[0].get("code", 0)
    return 0


def _gcloud(folder: pathlib.Path, command: str, places: list[str], flags: dict) -> int:
    kind = command.removeprefix("gcloud compute tpus ")
    if kind == "queued-resources create":
        if (folder / "states.json").exists():
            print(f"ALREADY_EXISTS: {places[0]}", file=sys.stderr)
            return 1
        _write_states(folder, list(QUEUE))
        for number in range(_settings(folder)["hosts"]):
            _make_host(folder / f"host{number}")
        return 0
    if kind == "queued-resources describe":
        states = _states(folder)
        if not states:
            print(f"ERROR: NOT_FOUND: Resource {places[0]} was not found", file=sys.stderr)
            return 1
        _write_states(folder, states[1:] or states)
        state = {"state": states[0]}
        if states[0] == "FAILED":
            state["failedData"] = {"error": {"message": "no capacity in the zone"}}
        print(json.dumps({"name": places[0], "state": state}))
        return 0
    if kind == "queued-resources delete":
        (folder / "states.json").unlink()
        _drop_hosts(folder)
        return 0
    if kind == "tpu-vm scp":
        source, (_, _, target) = places[0], places[1].partition(":")
        for host in _hosts(folder, flags):
            shutil.copy(source, host / target)
        return 0
    if kind == "tpu-vm ssh":
        if _states(folder)[:1] != ["ACTIVE"]:
            print("ERROR: the TPU is not READY", file=sys.stderr)
            return 1
        return max(
            [_ssh(folder, host, flags["--command"]) for host in _hosts(folder, flags)] or [255]
        )
    return _scripted(folder, "gcloud", command)


def _make_host(home: pathlib.Path) -> None:
    """A home folder, with an installer that gives it the Python of the tests."""
    for name, text in {
        ".local/bin/uv": f"""echo uv "$@" >> ~/installed
            mkdir -p restem-env/bin
            printf '#!/bin/sh\\nexec {sys.executable} "$@"\\n' > restem-env/bin/python
            chmod +x restem-env/bin/python""",
        "bin/python3": 'echo python3 "$@" >> ~/installed',
    }.items():
        program = home / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)


def _ssh(folder: pathlib.Path, home: pathlib.Path, command: str) -> int:
    settings = _settings(folder)
    environment = {
        **os.environ,
        "HOME": str(home),
        "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    if settings["hosts"] > 1:
        environment |= {
            "RESTEM_COORDINATOR": f"localhost:{settings['port']}",
            "RESTEM_NUM_PROCESSES": str(settings["hosts"]),
            "RESTEM_PROCESS_ID": home.name.removeprefix("host"),
        }
    return subprocess.run(["bash", "-c", command], cwd=home, env=environment).returncode


def _hosts(folder: pathlib.Path, flags: dict) -> list[pathlib.Path]:
    worker = flags.get("--worker", "0")
    found = sorted(folder.glob("host*"))
    return found if worker == "all" else found[int(worker) : int(worker) + 1]


def _drop_hosts(folder: pathlib.Path) -> None:
    for home in folder.glob("host*"):
        pid = home / "restem.pid"
        if pid.exists() and os.path.exists(f"/proc/{pid.read_text().strip()}"):
            os.killpg(int(pid.read_text()), signal.SIGKILL)
        shutil.rmtree(home, ignore_errors=True)  # another process may be removing it too


def _settings(folder: pathlib.Path) -> dict:
    return json.loads((folder / "settings.json").read_text())


def _states(folder: pathlib.Path) -> list[str]:
    file = folder / "states.json"
    return json.loads(file.read_text()) if file.exists() else []


def _write_states(folder: pathlib.Path, states: list[str]) -> None:
    (folder / "states.json").write_text(json.dumps(states))

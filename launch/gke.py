"""Jobs on GKE: launch/gke.yaml is filled in and applied with kubectl.

The Job restarts pods by restem's exit codes, so a worker never restarts restem in place.
"""

from __future__ import annotations

import json
import re
import string
import time
from collections.abc import Sequence

from launch import commands
from launch.config import Config
from launch.image import ROOT
from launch.jobs import PREEMPTED, Job, how_to_continue
from restem.errors import UserError

TEMPLATE = ROOT / "launch" / "gke.yaml"

_EXIT_CODE = re.compile(r"failed with exit code (\d+)")
_CAPACITY = {
    "on_demand": {},
    "reserved": {},  # a reservation belongs to the node pool
    "spot": {"cloud.google.com/gke-spot": "true"},
}


def check(job: Job, config: Config) -> None:
    """Checks that GKE takes the job.

    Raises:
      UserError: it does not.
    """
    config.require("image")
    if job.resources.slice is None:
        raise UserError("--executor=gke needs --chip and --topology; GPUs: --executor=vertex")
    commands.require("kubectl")


def render(job: Job, config: Config, image: str) -> str:
    """Returns the manifests of a job: its Service and its Job."""
    where = job.resources.slice
    assert where is not None
    environment = {"RESTEM_RESTARTS": "0", **job.environment}
    nodes = {
        "cloud.google.com/gke-tpu-accelerator": where.chip.gke_accelerator,
        "cloud.google.com/gke-tpu-topology": where.topology,
        **_CAPACITY[config.capacity or "on_demand"],
    }
    template = TEMPLATE.read_text(encoding="utf-8")
    template = template[template.index("apiVersion") :]  # without the comment on how to fill it in
    return string.Template(template).substitute(
        NAME=job.name,
        IMAGE=_yaml(image),
        HOSTS=where.hosts,
        CHIPS_PER_HOST=where.chips // where.hosts,
        SERVICE_ACCOUNT=_yaml(config.service_account or "default"),
        NODES=_yaml(nodes),
        ARGUMENTS=_yaml(list(job.arguments)),
        ENVIRONMENT=_yaml([{"name": k, "value": v} for k, v in environment.items()]),
    )


def _yaml(value: object) -> str:
    """Returns strings, lists and mappings as YAML on one line, in ASCII.

    JSON is YAML except in what strings may hold: YAML knows no surrogate pairs, and takes some
    characters, such as U+2028, for line breaks. Its own escapes are exact for all.
    """
    text = json.dumps(value, ensure_ascii=False)
    return re.sub(r"[^ -~]", lambda found: f"\\U{ord(found[0]):08X}", text)


def kubectl(config: Config, *arguments: str) -> list[str]:
    """Returns a command of kubectl for the cluster and namespace of the settings."""
    where = []
    if config.context:
        where.append(f"--context={config.context}")
    if config.namespace:
        where.append(f"--namespace={config.namespace}")
    return ["kubectl", *arguments, *where]


def _apply(config: Config) -> list[str]:
    return kubectl(config, "apply", "--filename=-")


def _get(name: str, config: Config) -> list[str]:
    return kubectl(config, "get", f"job/{name}", "--output=json")


def _logs(name: str, config: Config) -> list[str]:
    first = f"job-name={name},batch.kubernetes.io/job-completion-index=0"
    return kubectl(config, "logs", "--follow", f"--selector={first}", "--tail=-1")


def _delete(name: str, config: Config) -> list[str]:
    return kubectl(config, "delete", f"job/{name}", f"service/{name}", "--ignore-not-found")


def text(job: Job, config: Config, image: str) -> str:
    """Returns the commands and manifests as text."""
    first, logs = _get(job.name, config), _logs(job.name, config)
    apply = commands.text(_apply(config), render(job, config, image))
    return "\n".join([commands.text(first), apply, commands.text(logs), commands.text(first)])


def run(job: Job, config: Config, image: str, *, detach: bool, poll_s: float = 30.0) -> int:
    """Applies a job and follows it; returns restem's exit code.

    A running Job of the same name is followed. One that was stopped or has ended is deleted first,
    because the pods of a Job cannot be changed.

    Raises:
      UserError: if kubectl does not answer, or the cluster refuses the job.
    """
    code, output, _ = commands.ask(_get(job.name, config))
    if code == 0:
        old = json.loads(output)
        if _exit_code(old) is None and not old["spec"].get("suspend"):
            print(f"{job.name}: runs already", flush=True)
            return 0 if detach else follow(job.name, config, poll_s, again=job.again)
        commands.run(_delete(job.name, config))
    commands.run(_apply(config), stdin=render(job, config, image))
    return 0 if detach else follow(job.name, config, poll_s, again=job.again)


def follow(name: str, config: Config, poll_s: float = 30.0, *, again: str = "") -> int:
    """Shows the log of the first host until the Job ends or is stopped; returns restem's exit code.

    Raises:
      UserError: kubectl does not answer.
    """
    while True:
        code, output, errors = commands.ask(_get(name, config))
        if code:
            raise UserError(f"{name}: kubectl: {' '.join(errors.split())[-300:]}")
        found = json.loads(output)
        if (ended := _exit_code(found)) is not None:
            return ended
        if found["spec"].get("suspend"):
            print(f"{name}: the run was stopped; {how_to_continue(again)}", flush=True)
            return PREEMPTED
        # The command ends with the pod, or immediately if no pod exists yet.
        commands.show(_logs(name, config))
        time.sleep(poll_s)


def _exit_code(job: dict) -> int | None:
    """Returns restem's exit code from the status of a Job, None while it runs."""
    for condition in job.get("status", {}).get("conditions", ()):
        if condition["status"] != "True":
            continue
        if condition["type"] == "Complete":
            return 0
        if condition["type"] == "Failed":
            message = condition.get("message", "")
            print(f"{job['metadata']['name']}: {message}", flush=True)
            code = _EXIT_CODE.search(message)
            return int(code[1]) if code else 1
    return None


def act(action: str, name: str, config: Config) -> int:
    """Follows, stops or deletes a job, or prints its status; returns an exit code.

    Stopping ends the pods, which save their work, but keeps the Job.
    """
    if action == "follow":
        return follow(name, config)
    patch = json.dumps({"spec": {"suspend": True}})
    command: Sequence[str] = {
        "status": kubectl(config, "get", f"job/{name}", "--output=wide"),
        "stop": kubectl(config, "patch", f"job/{name}", "--type=merge", f"--patch={patch}"),
        "delete": _delete(name, config),
    }[action]
    return commands.show(command)

"""Jobs on Vertex AI: CustomJobs for TPU v5e and v6e slices and for GPUs.

A request has one worker pool for a TPU slice: `machine_type` and `tpu_topology` name the slice, and
the replica count is 1 for any number of hosts
(https://cloud.google.com/vertex-ai/docs/training/configure-compute). GPUs take one replica per
host, the first in a separate pool.
"""

from __future__ import annotations

import re
import time
from typing import Any

from launch.config import Config
from launch.jobs import MOST_STARTS, RESTARTABLE, Job, Resources
from restem.errors import UserError

INSTALL = "pip install 'google-cloud-aiplatform>=1.71'"
"""Command that installs the request types."""

_ENDED = (
    "JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED", "JOB_STATE_EXPIRED",
    "JOB_STATE_PARTIALLY_SUCCEEDED",
)  # fmt: skip
_STRATEGIES = {"on_demand": "STANDARD", "reserved": "STANDARD", "spot": "SPOT"}
_EXIT_STATUS = re.compile(r"non-zero status of (\d+)")


def _api():
    """Returns Google's client.

    Raises:
      UserError: it is not installed.
    """
    try:
        from google.cloud import aiplatform_v1
    except ImportError as e:
        raise UserError(f"Vertex AI's client is not installed ({e}): {INSTALL}") from e
    return aiplatform_v1


def check(job: Job, config: Config) -> None:
    """Checks that Vertex AI accepts the job.

    Raises:
      UserError: if it does not; the message names an executor that does.
    """
    config.require("project", "zone", "image")
    where = job.resources.slice
    if where and not where.chip.on_vertex:
        raise UserError(
            f"--chip={where.chip.name}: Vertex AI has v5e and v6e only; use --executor=tpu_vm or"
            " --executor=gke"
        )
    if where and where.hosts > 1 and config.capacity == "spot":
        raise UserError(
            f"--capacity=spot: Vertex AI has no spot slices of several hosts, and {where.name}"
            f" has {where.hosts}; use --executor=tpu_vm or --executor=gke"
        )
    _api()


def machine_spec(job: Job, config: Config) -> dict[str, Any]:
    """Returns the fields of Vertex AI's MachineSpec."""
    asked = job.resources
    if asked.slice:
        spec: dict[str, Any] = {
            "machine_type": asked.slice.machine_type,
            "tpu_topology": asked.slice.topology,
        }
    else:
        assert asked.gpu is not None
        spec = {
            "machine_type": asked.gpu.machine_type(asked.gpu_count),
            "accelerator_type": asked.gpu.accelerator_type,
            "accelerator_count": asked.gpu_count,
        }
    if config.capacity == "reserved":
        spec["reservation_affinity"] = {"reservation_affinity_type": "ANY_RESERVATION"}
    return spec


def request(job: Job, config: Config, image: str) -> dict[str, Any]:
    """Returns the fields of a CreateCustomJobRequest."""
    container = {
        "image_uri": image,
        "args": list(job.arguments),
        "env": [{"name": name, "value": value} for name, value in job.environment.items()],
    }
    hosts = job.resources.hosts if job.resources.gpu else 1
    pool = {"machine_spec": machine_spec(job, config), "container_spec": container}
    pools = [{**pool, "replica_count": 1}]
    if hosts > 1:
        pools.append({**pool, "replica_count": hosts - 1})
    spec: dict[str, Any] = {
        "worker_pool_specs": pools,
        "scheduling": {
            "strategy": _STRATEGIES[config.capacity or "on_demand"],
            "restart_job_on_worker_restart": True,
        },
    }
    if config.service_account:
        spec["service_account"] = config.service_account
    return {
        "parent": f"projects/{config.project}/locations/{config.region}",
        "custom_job": {
            "display_name": job.name,
            "labels": {"restem": job.name},
            "job_spec": spec,
        },
    }


def text(job: Job, config: Config, image: str) -> str:
    """Returns the request as JSON.

    Raises:
      UserError: if Google's client is not installed, or does not know a field or an enum value.
    """
    made = typed(request(job, config, image))
    from google.protobuf import json_format

    body = json_format.MessageToJson(type(made).pb(made).custom_job)
    return f"POST https://{endpoint(config)}/v1/{made.parent}/customJobs\n{body}"


def typed(fields: dict[str, Any]):
    """Returns Google's own request object with the fields.

    Raises:
      UserError: if Google's client is too old to know one of them.
    """
    try:
        return _api().CreateCustomJobRequest(fields)
    except (ValueError, KeyError, AttributeError, TypeError) as e:
        raise UserError(f"Vertex AI's client does not know the request ({e}): {INSTALL}") from e


def endpoint(config: Config) -> str:
    return f"{config.region}-aiplatform.googleapis.com"


def run(job: Job, config: Config, image: str, *, detach: bool, poll_s: float = 30.0) -> int:
    """Sends a job and follows it; returns restem's exit code.

    A job that ended because it was preempted or lost a host is sent again.

    Raises:
      UserError: if Vertex AI refuses it.
    """
    client = _client(config)
    code = 0
    for _ in range(MOST_STARTS):
        made = _call(client.create_custom_job, typed(request(job, config, image)))
        number = made.name.rpartition("/")[2]
        print(
            f"{job.name}: https://console.cloud.google.com/vertex-ai/locations/{config.region}"
            f"/training/{number}?project={config.project}\n{job.name}: logs: gcloud ai custom-jobs"
            f" stream-logs {number} --region={config.region} --project={config.project}",
            flush=True,
        )
        if detach:
            return 0
        code = _follow(client, job, made.name, poll_s)
        if code not in RESTARTABLE:
            return code
        print(f"{job.name}: ended with exit code {code}; it is sent again", flush=True)
    return code


def act(action: str, name: str, config: Config, *, poll_s: float = 30.0) -> int:
    """Follows, stops or deletes the jobs of a name, or prints their status.

    Raises:
      UserError: if there is no job of that name.
    """
    client = _client(config)
    parent = f"projects/{config.project}/locations/{config.region}"
    found = list(
        _call(client.list_custom_jobs, {"parent": parent, "filter": f'display_name="{name}"'})
    )
    if not found:
        raise UserError(f"{parent} has no job {name}; look in --zone, or at the name")
    latest = max(found, key=lambda job: job.create_time)
    if action == "follow":
        return _follow(client, Job(name, (), "", Resources()), latest.name, poll_s)
    for job in found:
        if action == "status":
            print(f"{job.name} {job.state.name} {job.error.message}".rstrip())
        elif action == "stop" and job.state.name not in _ENDED:
            _call(client.cancel_custom_job, {"name": job.name})
        elif action == "delete":
            _call(client.delete_custom_job, {"name": job.name})
    return 0


def _client(config: Config):
    config.require("project", "zone")
    return _api().JobServiceClient(client_options={"api_endpoint": endpoint(config)})


def _call(method, *arguments):
    """Calls the service; turns its errors into one line."""
    from google.api_core import exceptions
    from google.auth import exceptions as auth

    try:
        return method(*arguments)
    except auth.GoogleAuthError as e:
        raise UserError(
            f"no credentials for Google Cloud ({e}): gcloud auth application-default login"
        ) from e
    except exceptions.GoogleAPICallError as e:
        raise UserError(f"Vertex AI: {' '.join(e.message.split())}") from e


def _follow(client, job: Job, name: str, poll_s: float) -> int:
    """Waits for the end of a job and returns restem's exit code."""
    last = ""
    while True:
        now = _call(client.get_custom_job, {"name": name})
        if now.state.name != last:
            last = now.state.name
            print(f"{job.name}: {last}", flush=True)
        if last == "JOB_STATE_SUCCEEDED":
            return 0
        if last in _ENDED:
            message = now.error.message
            if message:
                print(f"{job.name}: {message}", flush=True)
            if last == "JOB_STATE_CANCELLED":
                return 1  # not restem's 75, with which `run` would send the stopped job again
            status = _EXIT_STATUS.search(message)
            return int(status[1]) if status else 1
        time.sleep(poll_s)

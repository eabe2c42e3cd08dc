"""GKE: manifests against Kubernetes' own models, and jobs through a recording kubectl."""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import re
import signal
import string
import tempfile

import kubernetes
import yaml
from absl.testing import absltest, parameterized

from launch import gke
from launch.config import Config
from launch.jobs import Job, Resources
from restem.errors import MachineError, UserError
from restem.plan.chips import CHIPS, GPUS, Slice
from restem.runtime.coordination import EXIT_LATE_HOST
from restem.runtime.preemption import EXIT_PREEMPTED
from tests.helpers.cloud import Cloud

IMAGE = "us-docker.pkg.dev/p/restem/restem:1"
SLICES = [f"{chip.name}:{shape}" for chip in CHIPS.values() for shape in chip.shapes]


NONE = {"code": 1, "errors": 'Error from server (NotFound): jobs.batch "math-1" not found'}
DONE = {"type": "Complete", "status": "True"}


def job(name: str = "v5p:2x2x2") -> Job:
    where = Slice.parse(name)
    arguments = ("run", "--gin.A='b: c'", "--gin_file=x.gin", '--gin.B={"k": "#"}')
    environment = {"RESTEM_DATA_DIR": "gs://b/data"}
    return Job("math-1", arguments, "gs://b/r", Resources(where.hosts, slice=where), environment,
               again="launch/xm_launch.py --workdir=gs://b/r")  # fmt: skip


def unknown_fields(value, kind: str, path: str) -> list[str]:
    """The keys of a manifest that Kubernetes' model of it does not have, or has of another type."""
    if match := re.fullmatch(r"list\[(.+)\]", kind):
        return [f for i, v in enumerate(value) for f in unknown_fields(v, match[1], f"{path}[{i}]")]
    if match := re.fullmatch(r"dict\(str, (.+)\)", kind):
        return [f for k, v in value.items() for f in unknown_fields(v, match[1], f"{path}.{k}")]
    model = getattr(kubernetes.client, kind, None)
    if model is None:
        types = {"str": str, "int": int, "bool": bool}
        good = kind not in types or type(value) is types[kind]
        return [] if good else [f"{path} is no {kind}"]
    names = {json_name: name for name, json_name in model.attribute_map.items()}
    found = []
    for key, inner in value.items():
        if key not in names:
            found.append(f"{path}.{key}")
        else:
            found += unknown_fields(inner, model.openapi_types[names[key]], f"{path}.{key}")
    return found


class ManifestTest(parameterized.TestCase):
    @parameterized.parameters(*SLICES)
    def test_every_slice(self, name):
        where = Slice.parse(name)
        service, made = yaml.safe_load_all(gke.render(job(name), Config(), IMAGE))
        self.assertEqual(unknown_fields(service, "V1Service", "service"), [])
        # Quantities are strings or numbers in JSON; the model calls them strings.
        pod = made["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        resources = container.pop("resources")
        self.assertEqual(unknown_fields(made, "V1Job", "job"), [])
        per_host = {"google.com/tpu": where.chips // where.hosts}
        self.assertEqual(resources, {"requests": per_host, "limits": per_host})
        self.assertEqual((made["spec"]["completions"], made["spec"]["parallelism"]),
                         (where.hosts, where.hosts))  # fmt: skip
        self.assertEqual(
            pod["nodeSelector"],
            {
                "cloud.google.com/gke-tpu-accelerator": where.chip.gke_accelerator,
                "cloud.google.com/gke-tpu-topology": where.topology,
            },
        )

    def test_a_pod(self):
        service, made = yaml.safe_load_all(gke.render(job(), Config(capacity="spot"), IMAGE))
        pod = made["spec"]["template"]["spec"]
        self.assertEqual(service["metadata"]["name"], pod["subdomain"])
        self.assertEqual(made["spec"]["completionMode"], "Indexed")
        self.assertEqual(pod["nodeSelector"]["cloud.google.com/gke-spot"], "true")
        (container,) = pod["containers"]
        self.assertEqual(container["args"], list(job().arguments))
        self.assertEqual(container["image"], IMAGE)
        # The Job starts pods again, so the worker starts nothing in place.
        self.assertEqual(
            container["env"],
            [
                {"name": "RESTEM_RESTARTS", "value": "0"},
                {"name": "RESTEM_DATA_DIR", "value": "gs://b/data"},
            ],
        )

    @parameterized.parameters("on", "no", "y", "null")
    def test_a_name_is_a_string(self, name):
        made = dataclasses.replace(job(), name=name)
        service, manifest = yaml.safe_load_all(gke.render(made, Config(), IMAGE))
        found = (
            service["metadata"]["name"], service["spec"]["selector"]["job-name"],
            manifest["metadata"]["name"], manifest["spec"]["template"]["spec"]["subdomain"],
        )  # fmt: skip
        self.assertEqual(found, (name,) * 4)

    def test_arguments_hold_any_character(self):
        """Go's YAML knows no surrogate pairs, which JSON writes for characters above U+FFFF."""
        text = "--gin.A='é \U0001f600 \u2028 \x85 \x7f \\ud83d \t\n $A \"'"
        made = dataclasses.replace(job(), arguments=("run", text))
        rendered = gke.render(made, Config(), IMAGE)
        self.assertTrue(rendered.isascii())
        self.assertIn("\\U0001F600", rendered)
        _, manifest = yaml.safe_load_all(rendered)
        (container,) = manifest["spec"]["template"]["spec"]["containers"]
        self.assertEqual(container["args"], ["run", text])

    def test_the_exit_codes_are_those_of_restem(self):
        _, made = yaml.safe_load_all(gke.render(job(), Config(), IMAGE))
        disrupted, ignore, fail = made["spec"]["podFailurePolicy"]["rules"]
        # The first rule that fits counts: what a pod exits with on a node that is taken away says
        # nothing.
        self.assertEqual(
            disrupted, {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
        )
        self.assertEqual(
            (ignore["action"], ignore["onExitCodes"]["values"]),
            ("Ignore", [EXIT_PREEMPTED, EXIT_LATE_HOST, 128 + signal.SIGABRT]),
        )
        self.assertEqual(
            (fail["action"], fail["onExitCodes"]["values"]),
            ("FailJob", [1, UserError.exit_code, MachineError.exit_code]),
        )
        self.assertLessEqual(made["spec"]["backoffLimit"], 20)  # for all other exit codes

    def test_the_variables_to_fill_in_by_hand_are_named(self):
        text = gke.TEMPLATE.read_text()
        manifests = text[text.index("apiVersion") :]
        names = set(string.Template(manifests).get_identifiers())
        self.assertEqual(names, set(re.findall(r"(?<![.\w])([A-Z_]+)=", text.split("envsubst")[0])))


class RunTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.cloud = Cloud(pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())))
        self.enter_context(absltest.mock.patch.dict(os.environ, self.cloud.environment))

    def status(self, *conditions, suspend=False):
        found = {
            "metadata": {"name": "math-1"},
            "spec": {"suspend": suspend},
            "status": {"conditions": list(conditions)},
        }
        return {"output": json.dumps(found)}

    def run_job(self, *answers, config=None, detach=False):
        self.cloud.answer("kubectl_get", *answers)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            code = gke.run(job(), config or Config(), IMAGE, detach=detach, poll_s=0)
        return code, output.getvalue()

    def failed(self, message):
        return {"type": "Failed", "status": "True", "reason": "PodFailurePolicy",
                "message": message}  # fmt: skip

    def test_a_new_job(self):
        code, _ = self.run_job(NONE, self.status(), self.status(DONE))
        self.assertEqual(code, 0)
        self.assertEqual(
            [call[1] for call in self.cloud.calls()], ["get", "apply", "get", "logs", "get"]
        )
        applied = (self.cloud.folder / "applied.yaml").read_text()
        self.assertEqual(applied, gke.render(job(), Config(), IMAGE))

    def test_where(self):
        config = Config(context="mine", namespace="ml")
        self.run_job(NONE, self.status(DONE), config=config)
        for call in self.cloud.calls():
            self.assertEqual(call[-2:], ["--context=mine", "--namespace=ml"])

    @parameterized.parameters(
        ("Container restem for pod default/math-1-0-x failed with exit code 2 matching FailJob rule"
         " at index 0", 2),
        ("Container restem for pod default/math-1-1-x failed with exit code 74 matching FailJob"
         " rule at index 2", 74),
        ("Job has reached the specified backoff limit", 1),
    )  # fmt: skip
    def test_the_exit_code_is_restems(self, message, expected):
        code, output = self.run_job(NONE, self.status(self.failed(message)))
        self.assertEqual(code, expected)
        self.assertIn(message, output)

    def test_a_job_that_runs_is_followed(self):
        code, output = self.run_job(self.status(), self.status(DONE))
        self.assertEqual(code, 0)
        self.assertIn("runs already", output)
        self.assertEqual([call[1] for call in self.cloud.calls()], ["get", "get"])

    def test_a_job_that_ended_or_was_stopped_makes_room(self):
        for old in (self.status(self.failed("x")), self.status(suspend=True)):
            before = len(self.cloud.calls())
            self.run_job(old, self.status(DONE))
            verbs = [call[1] for call in self.cloud.calls()[before:]]
            self.assertEqual(verbs, ["get", "delete", "apply", "get"])

    def test_a_job_that_is_stopped_ends_the_launcher(self):
        code, output = self.run_job(NONE, self.status(), self.status(suspend=True))
        self.assertEqual(code, 75)
        self.assertIn(f"math-1: the run was stopped; to continue it: {job().again}\n", output)
        self.cloud.answer("kubectl_get", self.status(suspend=True))
        with contextlib.redirect_stdout(io.StringIO()) as followed:
            self.assertEqual(gke.act("follow", "math-1", Config()), 75)
        self.assertIn("the command that the launcher printed", followed.getvalue())

    def test_a_refusal_is_one_line(self):
        self.cloud.answer("kubectl_apply", {"code": 1, "errors": "forbidden"})
        with self.assertRaisesRegex(UserError, "kubectl apply .* failed with exit code 1"):
            self.run_job(NONE)

    def test_detached(self):
        self.assertEqual(self.run_job(NONE, detach=True)[0], 0)
        self.assertEqual([call[1] for call in self.cloud.calls()], ["get", "apply"])

    def test_actions(self):
        for action in ("status", "stop", "delete"):
            self.assertEqual(gke.act(action, "math-1", Config()), 0)
        self.assertEqual([call[1] for call in self.cloud.calls()], ["get", "patch", "delete"])
        self.assertIn('--patch={"spec": {"suspend": true}}', self.cloud.calls()[1])

    def test_what_gke_refuses(self):
        gpus = Job("x", (), "gs://b/r", Resources(gpu=GPUS["l4"], gpu_count=1))
        with self.assertRaisesRegex(UserError, "--executor=vertex"):
            gke.check(gpus, Config(executor="gke", image=IMAGE))
        with self.assertRaisesRegex(UserError, "needs --image"):
            gke.check(job(), Config(executor="gke"))


if __name__ == "__main__":
    absltest.main()

"""Vertex AI: the whole request for every chip and GPU, and a job sent over a real connection."""

import contextlib
import io
from concurrent import futures

import grpc
from absl.testing import absltest, parameterized
from google.cloud import aiplatform_v1
from google.cloud.aiplatform_v1.services.job_service import transports

from launch import jobs as jobs_lib
from launch import vertex
from launch.config import Config
from launch.jobs import Job, Resources
from restem.errors import UserError
from restem.plan.chips import CHIPS, GPUS, Slice

IMAGE = "us-docker.pkg.dev/p/restem/restem:1"
CONFIG = Config(executor="vertex", project="p", zone="us-west4-a", image=IMAGE)
ARGUMENTS = ("run", "--gin_file=restem_math.gin", "--workdir=gs://b/math")

TPU_SLICES = [
    f"{chip.name}:{shape}" for chip in CHIPS.values() if chip.on_vertex for shape in chip.shapes
]
MACHINES = [(gpu, count) for gpu in GPUS.values() for count in gpu.machine_types]


def job(asked: Resources) -> Job:
    return Job("math-1", ARGUMENTS, "gs://b/math", asked, {"RESTEM_DATA_DIR": "gs://b/data"})


def sent(asked: Resources, config: Config = CONFIG):
    """The request in Google's own types, which refuse unknown fields and enum values."""
    return vertex.typed(vertex.request(job(asked), config, IMAGE))


class RequestTest(parameterized.TestCase):
    @parameterized.parameters(*TPU_SLICES)
    def test_a_tpu_slice(self, name):
        where = Slice.parse(name)
        request = sent(Resources(where.hosts, slice=where))
        self.assertEqual(
            request,
            aiplatform_v1.CreateCustomJobRequest(
                parent="projects/p/locations/us-west4",
                custom_job=aiplatform_v1.CustomJob(
                    display_name="math-1",
                    labels={"restem": "math-1"},
                    job_spec=aiplatform_v1.CustomJobSpec(
                        worker_pool_specs=[
                            aiplatform_v1.WorkerPoolSpec(
                                machine_spec=aiplatform_v1.MachineSpec(
                                    machine_type=where.machine_type, tpu_topology=where.topology
                                ),
                                replica_count=1,
                                container_spec=aiplatform_v1.ContainerSpec(
                                    image_uri=IMAGE,
                                    args=ARGUMENTS,
                                    env=[
                                        aiplatform_v1.EnvVar(
                                            name="RESTEM_DATA_DIR", value="gs://b/data"
                                        )
                                    ],
                                ),
                            )
                        ],
                        scheduling=aiplatform_v1.Scheduling(
                            strategy=aiplatform_v1.Scheduling.Strategy.STANDARD,
                            restart_job_on_worker_restart=True,
                        ),
                    ),
                ),
            ),
        )

    @parameterized.parameters(*((gpu.name, count) for gpu, count in MACHINES))
    def test_gpus(self, name, count):
        gpu = GPUS[name]
        for hosts in (1, 3):
            request = sent(Resources(hosts, gpu=gpu, gpu_count=count))
            pools = request.custom_job.job_spec.worker_pool_specs
            self.assertEqual([pool.replica_count for pool in pools], [1, 2] if hosts > 1 else [1])
            for pool in pools:
                self.assertEqual(
                    pool.machine_spec,
                    aiplatform_v1.MachineSpec(
                        machine_type=gpu.machine_types[count],
                        accelerator_type=aiplatform_v1.AcceleratorType[gpu.accelerator_type],
                        accelerator_count=count,
                    ),
                )

    def test_capacity_and_account(self):
        asked = Resources(gpu=GPUS["l4"], gpu_count=1)
        spec = sent(asked, Config(capacity="spot", service_account="me@p").over(CONFIG))
        spec = spec.custom_job.job_spec
        self.assertEqual(spec.scheduling.strategy.name, "SPOT")
        self.assertEqual(spec.service_account, "me@p")
        spec = sent(asked, Config(capacity="reserved").over(CONFIG)).custom_job.job_spec
        machine = spec.worker_pool_specs[0].machine_spec
        self.assertEqual(
            machine.reservation_affinity.reservation_affinity_type.name, "ANY_RESERVATION"
        )

    def test_an_unknown_field_or_value_is_one_line(self):
        for fields in ({"jop": 1}, {"job_spec": {"scheduling": {"strategy": "CHEAP"}}}):
            with self.assertRaisesRegex(UserError, "does not know the request .*pip install"):
                vertex.typed({"custom_job": fields})

    def test_the_text_is_what_is_sent(self):
        where = Slice.parse("v6e:4x4")
        text = vertex.text(job(Resources(4, slice=where)), CONFIG, IMAGE)
        line, _, body = text.partition("\n")
        self.assertEqual(
            line,
            "POST https://us-west4-aiplatform.googleapis.com/v1/projects/p/locations/us-west4"
            "/customJobs",
        )
        self.assertEqual(
            aiplatform_v1.CustomJob.from_json(body), sent(Resources(4, slice=where)).custom_job
        )

    @parameterized.parameters(
        ("v5p:4x4x4", {}, "Vertex AI has v5e and v6e only; use --executor=tpu_vm"),
        ("v4:2x2x1", {}, "v5e and v6e only"),
        ("v5e:4x4", {"capacity": "spot"}, "no spot slices of several hosts"),
        ("v5e:4x4", {"image": None}, "needs --image"),
    )
    def test_what_vertex_refuses(self, name, changes, message):
        where = Slice.parse(name)
        settings = {"project": "p", "zone": "us-west4-a", "image": IMAGE, **changes}
        with self.assertRaisesRegex(UserError, message):
            vertex.check(
                job(Resources(where.hosts, slice=where)), Config(executor="vertex", **settings)
            )


class Service:
    """The JobService of Vertex AI on this machine: keeps jobs, and ends them as the test says."""

    def __init__(self, ends):
        self.ends = list(ends)
        self.jobs = []
        self.server = grpc.server(futures.ThreadPoolExecutor(1))
        path = "google.cloud.aiplatform.v1.JobService"
        api = aiplatform_v1
        empty = lambda _: b""
        self.server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    path,
                    {
                        name: grpc.unary_unary_rpc_method_handler(
                            handler, kind.deserialize, answer
                        )
                        for name, handler, kind, answer in (
                            ("CreateCustomJob", self.create, api.CreateCustomJobRequest,
                             api.CustomJob.serialize),
                            ("GetCustomJob", self.get, api.GetCustomJobRequest,
                             api.CustomJob.serialize),
                            ("ListCustomJobs", self.list, api.ListCustomJobsRequest,
                             api.ListCustomJobsResponse.serialize),
                            ("CancelCustomJob", self.cancel, api.CancelCustomJobRequest, empty),
                        )
                    },
                )
            ]
        )  # fmt: skip
        self.port = self.server.add_insecure_port("localhost:0")
        self.server.start()

    def client(self, config):
        del config
        channel = grpc.insecure_channel(f"localhost:{self.port}")
        transport = transports.JobServiceGrpcTransport(channel=channel)
        return aiplatform_v1.JobServiceClient(transport=transport)

    def create(self, request, context):
        if request.custom_job.display_name == "refused":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "quota of v5e\nis used up")
        made = aiplatform_v1.CustomJob(request.custom_job)
        made.name = f"{request.parent}/customJobs/{len(self.jobs) + 1}"
        made.state = "JOB_STATE_PENDING"
        made.create_time = {"seconds": len(self.jobs) + 1}
        self.jobs.append(made)
        return made

    def get(self, request, context):
        del context
        (found,) = [made for made in self.jobs if made.name == request.name]
        state, message = self.ends.pop(0)
        found.state = state
        found.error = {"message": message}
        return found

    def list(self, request, context):
        del context
        wanted = request.filter.split('"')[1]
        found = [made for made in self.jobs if made.display_name == wanted]
        return aiplatform_v1.ListCustomJobsResponse(custom_jobs=found)

    def cancel(self, request, context):
        del context
        (found,) = [made for made in self.jobs if made.name == request.name]
        found.state = "JOB_STATE_CANCELLED"
        return b""


class RunTest(parameterized.TestCase):
    def run_job(self, *ends, detach=False, name="math-1"):
        self.service = Service(ends)
        self.addCleanup(self.service.server.stop, None)
        self.enter_context(absltest.mock.patch.object(vertex, "_client", self.service.client))
        where = Slice.parse("v5e:2x4")
        made = Job(name, ARGUMENTS, "gs://b/math", Resources(1, slice=where))
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            code = vertex.run(made, CONFIG, IMAGE, detach=detach, poll_s=0)
        return code, output.getvalue()

    def test_a_job_that_succeeds(self):
        code, output = self.run_job(("JOB_STATE_RUNNING", ""), ("JOB_STATE_SUCCEEDED", ""))
        self.assertEqual(code, 0)
        self.assertIn("gcloud ai custom-jobs stream-logs 1 --region=us-west4 --project=p", output)
        self.assertRegex(output, r"JOB_STATE_RUNNING\nmath-1: JOB_STATE_SUCCEEDED\n$")
        (received,) = self.service.jobs
        self.assertEqual(list(received.job_spec.worker_pool_specs[0].container_spec.args),
                         list(ARGUMENTS))  # fmt: skip

    @parameterized.parameters(2, 1)
    def test_the_exit_code_is_restems(self, status):
        message = f"The replica workerpool0-0 exited with a non-zero status of {status}. To find"
        code, output = self.run_job(("JOB_STATE_FAILED", message))
        self.assertEqual(code, status)
        self.assertIn(message, output)
        self.assertLen(self.service.jobs, 1)

    @parameterized.parameters(*jobs_lib.RESTARTABLE)
    def test_a_job_that_may_continue_is_sent_again(self, status):
        message = f"The replica workerpool0-0 exited with a non-zero status of {status}."
        code, _ = self.run_job(("JOB_STATE_FAILED", message), ("JOB_STATE_SUCCEEDED", ""))
        self.assertEqual(code, 0)
        self.assertLen(self.service.jobs, 2)
        self.assertEqual(*(made.job_spec for made in self.service.jobs))

    def test_a_failure_without_a_code(self):
        self.assertEqual(self.run_job(("JOB_STATE_FAILED", "out of capacity"))[0], 1)
        self.assertEqual(self.run_job(("JOB_STATE_CANCELLED", ""))[0], 1)
        stopped = ("JOB_STATE_CANCELLED", "The replica exited with a non-zero status of 75.")
        self.assertEqual(self.run_job(stopped, ("JOB_STATE_SUCCEEDED", ""))[0], 1)

    def test_detached(self):
        self.assertEqual(self.run_job(detach=True)[0], 0)
        self.assertLen(self.service.jobs, 1)

    def test_a_refusal_is_one_line(self):
        with self.assertRaisesRegex(UserError, "^Vertex AI: quota of v5e is used up$"):
            self.run_job(name="refused")

    def test_actions(self):
        self.run_job(detach=True)
        self.service.ends = [("JOB_STATE_RUNNING", ""), ("JOB_STATE_SUCCEEDED", "")]
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            self.assertEqual(vertex.act("status", "math-1", CONFIG), 0)
            self.assertEqual(vertex.act("follow", "math-1", CONFIG, poll_s=0), 0)
        self.assertIn("customJobs/1 JOB_STATE_PENDING", output.getvalue())
        self.service.jobs[0].state = "JOB_STATE_RUNNING"
        vertex.act("stop", "math-1", CONFIG)
        self.assertEqual(self.service.jobs[0].state.name, "JOB_STATE_CANCELLED")
        with self.assertRaisesRegex(UserError, "has no job other"):
            vertex.act("stop", "other", CONFIG)


if __name__ == "__main__":
    absltest.main()

"""What Google Cloud calls a slice, against its published tables."""

from absl.testing import absltest, parameterized

from restem.errors import UserError
from restem.plan.chips import CHIPS, GPUS, Slice

# Machine types and VMs: https://cloud.google.com/vertex-ai/docs/training/configure-compute and
# https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus; accelerator
# types: the pages of the chips below https://cloud.google.com/tpu/docs.
PUBLISHED = {
    "v5e:1x1": ("v5litepod-1", "ct5lp-hightpu-1t", 1),
    "v5e:2x2": ("v5litepod-4", "ct5lp-hightpu-4t", 1),
    "v5e:2x4": ("v5litepod-8", "ct5lp-hightpu-8t", 1),
    "v5e:4x4": ("v5litepod-16", "ct5lp-hightpu-4t", 4),
    "v5e:4x8": ("v5litepod-32", "ct5lp-hightpu-4t", 8),
    "v5e:8x8": ("v5litepod-64", "ct5lp-hightpu-4t", 16),
    "v5e:8x16": ("v5litepod-128", "ct5lp-hightpu-4t", 32),
    "v5e:16x16": ("v5litepod-256", "ct5lp-hightpu-4t", 64),
    "v6e:1x1": ("v6e-1", "ct6e-standard-1t", 1),
    "v6e:2x2": ("v6e-4", "ct6e-standard-4t", 1),
    "v6e:2x4": ("v6e-8", "ct6e-standard-8t", 1),
    "v6e:4x4": ("v6e-16", "ct6e-standard-4t", 4),
    "v6e:4x8": ("v6e-32", "ct6e-standard-4t", 8),
    "v6e:8x8": ("v6e-64", "ct6e-standard-4t", 16),
    "v6e:8x16": ("v6e-128", "ct6e-standard-4t", 32),
    "v6e:16x16": ("v6e-256", "ct6e-standard-4t", 64),
    "v4:2x2x1": ("v4-8", "ct4p-hightpu-4t", 1),
    "v4:2x2x2": ("v4-16", "ct4p-hightpu-4t", 2),
    "v4:2x2x4": ("v4-32", "ct4p-hightpu-4t", 4),
    "v4:2x4x4": ("v4-64", "ct4p-hightpu-4t", 8),
    "v4:4x4x4": ("v4-128", "ct4p-hightpu-4t", 16),
    "v4:4x4x8": ("v4-256", "ct4p-hightpu-4t", 32),
    "v4:4x8x8": ("v4-512", "ct4p-hightpu-4t", 64),
    "v4:8x8x8": ("v4-1024", "ct4p-hightpu-4t", 128),
    "v4:8x8x16": ("v4-2048", "ct4p-hightpu-4t", 256),
    "v4:8x16x16": ("v4-4096", "ct4p-hightpu-4t", 512),
    "v5p:2x2x1": ("v5p-8", "ct5p-hightpu-4t", 1),
    "v5p:2x2x2": ("v5p-16", "ct5p-hightpu-4t", 2),
    "v5p:2x2x4": ("v5p-32", "ct5p-hightpu-4t", 4),
    "v5p:2x4x4": ("v5p-64", "ct5p-hightpu-4t", 8),
    "v5p:4x4x4": ("v5p-128", "ct5p-hightpu-4t", 16),
    "v5p:4x4x8": ("v5p-256", "ct5p-hightpu-4t", 32),
    "v5p:4x8x8": ("v5p-512", "ct5p-hightpu-4t", 64),
    "v5p:8x8x8": ("v5p-1024", "ct5p-hightpu-4t", 128),
    "v5p:8x8x16": ("v5p-2048", "ct5p-hightpu-4t", 256),
    "v5p:8x16x16": ("v5p-4096", "ct5p-hightpu-4t", 512),
    "v5p:16x16x16": ("v5p-8192", "ct5p-hightpu-4t", 1024),
    "v5p:16x16x24": ("v5p-12288", "ct5p-hightpu-4t", 1536),
}
# https://cloud.google.com/tpu/docs/runtimes and, for the labels, plan-tpus as above.
IMAGES = {
    "v4": ("tpu-ubuntu2204-base", "tpu-v4-podslice"),
    "v5e": ("v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice"),
    "v5p": ("v2-alpha-tpuv5", "tpu-v5p-slice"),
    "v6e": ("v2-alpha-tpuv6e", "tpu-v6e-slice"),
}


class NamesTest(parameterized.TestCase):
    @parameterized.parameters(*PUBLISHED)
    def test_a_slice_is_called_as_published(self, name):
        where = Slice.parse(name)
        where.require_offered()
        found = (where.accelerator_type, where.machine_type, where.hosts)
        self.assertEqual(found, PUBLISHED[name])

    def test_every_slice_of_the_table_is_published(self):
        ours = {f"{chip.name}:{shape}" for chip in CHIPS.values() for shape in chip.shapes}
        self.assertEqual(ours, set(PUBLISHED))

    def test_images_and_labels(self):
        found = {name: (c.runtime_version, c.gke_accelerator) for name, c in CHIPS.items()}
        self.assertEqual(found, IMAGES)

    @parameterized.parameters("v5e:3x3", "v5e:2x2x2", "v6e:16x32", "v4:16x16x24", "v5p:4x4")
    def test_other_shapes_are_refused_with_those_there_are(self, name):
        chip = CHIPS[name.partition(":")[0]]
        with self.assertRaisesRegex(UserError, f"choose {chip.shapes[0]}, .*{chip.source}"):
            Slice.parse(name).require_offered()

    @parameterized.parameters(
        "v5p:0x4x4", "v5e:0x2", "v5p:4x4", "v4:16x16", "v5e:1x3", "v6e:4x6", "v5e:2x2x2"
    )
    def test_shapes_that_no_slice_can_have(self, name):
        with self.assertRaisesRegex(UserError, "no such slice of v"):
            Slice.parse(name)

    def test_larger_slices_may_have_shapes_that_are_not_in_the_table(self):
        self.assertEqual(Slice.parse("v5p:4x4x12").hosts, 48)

    def test_gpus_have_machines(self):
        self.assertEqual(GPUS["a100"].machine_type(8), "a2-highgpu-8g")
        with self.assertRaisesRegex(UserError, "--gpu_count=3: machines with a100 have 1, 2, 4"):
            GPUS["a100"].machine_type(3)


if __name__ == "__main__":
    absltest.main()

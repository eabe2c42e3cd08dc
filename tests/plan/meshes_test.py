"""Meshes on devices that are not at hand: policies that divide over them, and flags for others."""

from absl.testing import absltest, parameterized

from restem import models
from restem.errors import UserError
from restem.plan import meshes
from restem.run.settings import LocalMeshSettings, MeshSettings, RunSettings

SMALL = models.ModelConfig(
    vocab_size=256, num_layers=2, embed_dim=96, num_heads=6, num_kv_heads=2, head_dim=16,
    mlp_dim=192, tied_head=True,
)  # fmt: skip


class CheckTest(parameterized.TestCase):
    def check(self, e_step, m_step, devices=16, hosts=4):
        run = RunSettings(e_step_mesh=e_step, m_step_mesh=m_step)
        meshes.check(SMALL, run, devices, hosts)

    def test_a_policy_that_divides(self):
        self.check(MeshSettings(-1, 1, 2), MeshSettings(1, 8, 2))
        self.check(None, None)

    @parameterized.parameters(
        (
            MeshSettings(-1, 1, 4), MeshSettings(1, 4, 4),
            "--gin.e_step/make_mesh.tensor=2 --gin.m_step/make_mesh.tensor=2"
            " --gin.m_step/make_mesh.fsdp=8",
        ),
        (LocalMeshSettings(-1, 1, 4), None, "--gin.e_step/local_mesh.tensor=2"),
        (MeshSettings(1, -1, 4), None, "--gin.e_step/make_mesh.tensor=2"),
    )  # fmt: skip
    def test_one_line_names_flags_with_which_it_divides(self, e_step, m_step, flags):
        with self.assertRaisesRegex(
            UserError, rf"heads=6 over tensor=4; set tensor to one of .*16 devices: {flags}$"
        ) as error:
            self.check(e_step, m_step)
        self.assertNotIn("\n", str(error.exception))

    def test_without_such_flags_the_error_stands_alone(self):
        with self.assertRaisesRegex(UserError, r"embed=96 over fsdp=64; set fsdp .*gin file\)$"):
            self.check(None, MeshSettings(1, 64, 1), devices=64)

    def test_sizes_that_are_not_the_devices(self):
        with self.assertRaisesRegex(UserError, "needs 8 devices, but there are 16"):
            self.check(None, MeshSettings(1, 8, 1))


if __name__ == "__main__":
    absltest.main()

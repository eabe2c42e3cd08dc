"""Whether validation has a mesh of its own, by the memory that training leaves."""

import jax
from absl.testing import absltest

from restem import models, partitioning
from restem.checkpoints.policy import Policy
from restem.records import TaskCard
from restem.rollout import Rollout
from restem.steps import preparation
from restem.training import StepMemory
from tests.helpers import tiny


class ValidationMeshTest(absltest.TestCase):
    def test_validation_leaves_the_mesh_of_the_sampler_where_memory_is_short(self):
        mesh = partitioning.make_mesh(devices=jax.devices()[:1])
        config = tiny.config()
        policy = Policy(config, models.param_shapes(config), tiny.vocabulary(), "orbax:/base")
        card = TaskCard("letters", grader={"kind": "none"})
        rollout = Rollout(policy=policy, card=card, verifier=None, key=1, validation_mesh=mesh)
        copy = 4 * config.num_params
        for memory, expected in ((4 * copy, mesh), (1.2 * copy, None)):
            room = StepMemory(config=config, memory=int(memory), held=copy, trained=0)
            found = preparation.with_validation_mesh(rollout, room)
            self.assertEqual(found.validation_mesh, expected)
            self.assertEqual(found.reserved, copy)
        self.assertIs(preparation.with_validation_mesh(rollout, None), rollout)


if __name__ == "__main__":
    absltest.main()

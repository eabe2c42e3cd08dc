"""Policies that are to be launched: their shapes are read and compared with the slice."""

import json
from unittest import mock

from absl.testing import absltest

from launch import commands, hardware
from launch.jobs import Resources
from restem.errors import UserError
from restem.plan.chips import Slice
from restem.run.settings import MeshSettings, RunSettings

MODEL = "hf:gs://mine/models/qwen2.5-0.5b/"
CONFIG = {
    "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864,
    "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}  # fmt: skip
MESHES = RunSettings(e_step_mesh=MeshSettings(-1, 1, 4), m_step_mesh=MeshSettings(1, 4, 4))
SLICE = Resources(4, slice=Slice.parse("v5e:4x4"))


class PoliciesTest(absltest.TestCase):
    def check(self, answer, *, points=((MODEL, MESHES),), asked=SLICE, ask=True):
        with mock.patch.object(commands, "ask", return_value=answer) as asking:
            try:
                hardware.check_policies(points, asked, ask=ask)
            finally:
                self.asked = [call.args[0] for call in asking.call_args_list]

    def test_a_policy_in_a_bucket_is_read(self):
        flags = (
            "--gin.e_step/make_mesh.tensor=2 --gin.m_step/make_mesh.tensor=2"
            " --gin.m_step/make_mesh.fsdp=8"
        )
        with self.assertRaisesRegex(UserError, f"heads=14 over tensor=4.* 16 devices: {flags}$"):
            self.check((0, json.dumps(CONFIG), ""))
        self.assertEqual(
            self.asked,
            [["gcloud", "storage", "cat", "gs://mine/models/qwen2.5-0.5b/config.json"]],
        )
        self.assertEqual(hardware.reading([MODEL, "pypi:x", "orbax:gs://b/c"], SLICE), self.asked)

    def test_a_policy_that_divides(self):
        self.check((0, json.dumps(CONFIG | {"num_attention_heads": 28, "hidden_size": 3584}), ""))
        points = [(MODEL, MESHES), (MODEL, MESHES)]
        self.check((0, json.dumps(CONFIG | {"num_attention_heads": 16}), ""), points=points)
        self.assertLen(self.asked, 1)

    def test_what_cannot_be_read_is_left_to_restem(self):
        self.check((1, "", "no such file"))
        self.check((0, "no JSON", ""))
        self.check((0, json.dumps({"model_type": "other"}), ""))
        self.check((0, json.dumps(CONFIG), ""), ask=False)
        self.assertEqual(self.asked, [])
        self.check((0, json.dumps(CONFIG), ""), points=[("hf:/on/the/hosts", MESHES)])
        self.check((0, json.dumps(CONFIG), ""), asked=Resources(2))
        self.assertEqual(hardware.reading([MODEL], Resources(2)), [])


if __name__ == "__main__":
    absltest.main()

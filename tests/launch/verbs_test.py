"""The verbs that can be launched, and the flags that are passed on to them."""

from absl.testing import absltest, parameterized

from launch import verbs
from restem.errors import UserError


class VerbsTest(parameterized.TestCase):
    def test_verbs_are_those_of_a_run(self):
        self.assertEqual(
            verbs.VERBS, ("run", "generate", "verify", "select", "improve", "evaluate")
        )

    @parameterized.parameters(
        ("run", "--allow_weak_sandbox"),
        ("generate", "--iteration=2", "--requests=gs://b/r.jsonl"),
        ("generate", "--completions=gs://b/a.jsonl", "--completions=gs://b/b.jsonl"),
        ("evaluate", "--iteration=2"),
        ("evaluate", "--policy=hf:gs://b/m", "--task=gsm8k", "--task", "math"),
    )
    def test_flags_of_the_verb(self, verb, *passed):
        self.assertEqual(verbs.parse(verb, passed, remote=True).verb, verb)

    @parameterized.parameters(
        ("run", "--iteration=2", "unrecognized arguments: --iteration=2; see restem --help"),
        ("run", "stray", "unrecognized arguments: stray"),
        ("run", "--gin.SEED=1", "--gin.SEED=1 goes before --"),
        ("run", "--gin_file=x.gin", "--gin_file goes before --"),
        ("run", "--workdir=gs://b/r", "--workdir goes before --"),
        ("run", "--dry_run", "--dry_run goes before --"),
        ("generate", "--completions=/a.jsonl", "all hosts must see it: name it in a bucket"),
        ("evaluate", "--task=math", "--task says what to evaluate --policy=REFERENCE on"),
    )
    def test_what_restem_would_refuse(self, verb, passed, message):
        with self.assertRaisesRegex(UserError, message):
            verbs.parse(verb, [passed], remote=True)


if __name__ == "__main__":
    absltest.main()

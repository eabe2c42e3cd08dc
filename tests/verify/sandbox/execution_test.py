"""How the judge waits for programs: what it writes meanwhile, and how often it looks at them."""

import os
import types
from unittest import mock

from absl.testing import absltest

from restem.verify.sandbox import execution, process_tree
from restem.verify.sandbox.limits import Limits


def new_execution(test):
    """Returns an execution of no program, for pipes that the test itself serves."""
    worker = types.SimpleNamespace(
        pid=os.getpid(),
        cgroup=types.SimpleNamespace(memory=True),
        out_of_memory_kills=lambda: 0,
        scratch_is_full=lambda: False,
    )
    return test.enterContext(execution.Execution(worker, Limits()))


class WaitTest(absltest.TestCase):
    def test_past_its_limit_a_program_is_looked_at_every_50_ms(self):
        run = new_execution(self)
        reader, writer = run.pipe()
        looks = []

        def wait_for_others_s(root, before):
            looks.append(root)
            os.write(writer, b"x")  # what the program writes wakes the judge
            return 1e9  # other programs keep the cores busy

        sink = execution.Sink(reader, 1 << 20)
        with (
            mock.patch.object(process_tree, "wait_for_others_s", wait_for_others_s),
            self.assertRaisesRegex(execution.Failure, "more than 0.2 s"),
        ):
            run.wait([sink], None, 0.2, None)
        # The test may last for 0.4 s longer, and the first look is at once.
        self.assertBetween(len(looks), 2, 9)
        self.assertEqual(sink.size, len(looks) - 1)

    def test_a_source_is_written_as_it_is_read(self):
        run = new_execution(self)
        there, back = run.pipe(), run.pipe()
        data = os.urandom(3_000_000)
        child = os.fork()
        if child == 0:
            got = b""
            while len(got) < len(data):
                got += os.read(there[0], 1 << 16)
            os.write(back[1], b"same" if got == data else b"other")
            os._exit(0)
        source = execution.Source(there[1], data)
        sink = execution.Sink(back[0], 1 << 20)
        self.assertIsNone(run.wait([sink], None, 60.0, lambda: sink.size > 0, source=source))
        os.waitpid(child, 0)
        self.assertEqual(sink.text, "same")
        self.assertEmpty(source.rest)

    def test_a_source_without_a_reader_ends(self):
        run = new_execution(self)
        there, back = run.pipe(), run.pipe()
        run.close(there[0], back[1])
        source = execution.Source(there[1], b"x" * 1_000_000)
        sink = execution.Sink(back[0], 1 << 20)
        self.assertIsNone(run.wait([sink], None, 60.0, None, source=source))
        self.assertFalse(sink.open)


if __name__ == "__main__":
    absltest.main()

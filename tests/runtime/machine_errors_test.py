"""A fault of the machine is one line with path, fault and remedy, however deep it is wrapped."""

import errno
import os

from absl.testing import absltest, parameterized

from restem.errors import MachineError, UserError
from restem.runtime import machine_errors

# As TensorStore says it, through Orbax.
TENSORSTORE = (
    'RESOURCE_EXHAUSTED: Error writing "/runs/a/iteration_001/training/3.tmp/state/d/a5": Failed'
    " to write to file [OS error 28: ENOSPC No space left on device] [source locations='...']"
)
MEMORY = (
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes.\nBufferAssignment"
)


def os_error(number, path="/runs/a/x"):
    return OSError(number, os.strerror(number), path)


def wrapped(error, by=RuntimeError):
    try:
        try:
            raise error
        except Exception as caught:
            raise by("saving failed\n" * 1000) from caught
    except by as outer:
        return outer


class ExplainTest(parameterized.TestCase):
    @parameterized.parameters(
        (errno.ENOSPC, "/runs/a/x: the disk is full; free some space"),
        (errno.EDQUOT, "/runs/a/x: the disk quota is used up; free some space"),
        (errno.EIO, "/runs/a/x: the disk cannot be read or written; check the disk"),
        (errno.ESTALE, "/runs/a/x: the network file system has lost the file"),
        (errno.EMFILE, "/runs/a/x: too many open files; raise the limit"),
    )
    def test_the_machine_is_at_fault(self, number, message):
        for error in (os_error(number), wrapped(os_error(number)),
                      wrapped(wrapped(os_error(number), ValueError))):  # fmt: skip
            found = machine_errors.explain(error, "/runs/a")
            self.assertIsInstance(found, MachineError)
            self.assertStartsWith(str(found), message)
            self.assertLen(str(found).splitlines(), 1)

    @parameterized.parameters(
        (errno.EROFS, "the file system is read-only; name a folder that can be written"),
        (errno.EACCES, "permission denied; name a folder that can be written"),
        (errno.ENOENT, "no such file or folder; name a path"),
        (errno.ENOTDIR, "a part of this path is a file, not a folder"),
        (errno.ENAMETOOLONG, "the name is too long"),
    )
    def test_the_path_is_at_fault(self, number, message):
        for error in (os_error(number), wrapped(os_error(number))):
            found = machine_errors.explain(error)
            self.assertIsInstance(found, UserError)
            self.assertStartsWith(str(found), f"/runs/a/x: {message}")

    def test_tensorstore_in_a_group_of_errors(self):
        group = ExceptionGroup("two arrays", [ValueError(TENSORSTORE), ValueError(TENSORSTORE)])
        found = machine_errors.explain(wrapped(group))
        self.assertIsInstance(found, MachineError)
        self.assertStartsWith(
            str(found), "/runs/a/iteration_001/training/3.tmp/state/d/a5: the disk is full; free"
        )

    def test_without_a_path_the_folder_is_named(self):
        found = machine_errors.explain(OSError(errno.ENOSPC, "No space left on device"), "/runs/a")
        self.assertStartsWith(str(found), "/runs/a: the disk is full")

    def test_memory(self):
        found = machine_errors.explain(MemoryError(), "/runs/a")
        self.assertRegex(str(found), "^/runs/a: out of memory; ")
        found = machine_errors.explain(RuntimeError(MEMORY))
        self.assertIsInstance(found, MachineError)
        self.assertRegex(str(found), "out of memory while .*Run.e_step_slots")
        self.assertLen(str(found).splitlines(), 1)

    def test_errors_that_have_a_message_of_their_own_keep_it(self):
        for kind in (UserError, MachineError):
            self.assertEqual(str(machine_errors.explain(wrapped(kind("a: b; c")))), "a: b; c")

    def test_a_full_disk_breaks_what_comes_next(self):
        try:
            try:
                raise os_error(errno.ENOSPC)
            finally:
                {}["missing"]
        except KeyError as error:
            self.assertIsInstance(machine_errors.explain(error), MachineError)

    def test_faults_of_the_code_stay_what_they_are(self):
        try:
            try:
                raise os_error(errno.ENOENT)
            except OSError:
                {}["missing"]
        except KeyError as error:
            self.assertIsNone(machine_errors.explain(error))
        for error in (
            ValueError("x"), KeyError(28), OSError("no number"), TypeError(TENSORSTORE),
            OSError(errno.ENOENT, "no path"), RuntimeError("UNAVAILABLE: gone"),
        ):  # fmt: skip
            self.assertIsNone(machine_errors.explain(error))


class ReadingFaultTest(parameterized.TestCase):
    @parameterized.parameters(
        (os_error(errno.EIO), "/runs/a/x: the disk cannot be read"),
        (OSError(errno.EMFILE, "Too many open files"), "/runs/b: too many open files"),
        (os_error(errno.EACCES), "/runs/a/x: permission denied"),
        (os_error(errno.EPERM, None), "/runs/b: "),
        (MemoryError(), "/runs/b: out of memory"),
        (RuntimeError(MEMORY), "the device is out of memory"),
        (RuntimeError("UNAVAILABLE: gone"), r"/runs/b: cannot be read now \(UNAVAILABLE: gone"),
        (TimeoutError(), r"/runs/b: cannot be read now \(TimeoutError"),
        (MachineError("a: b; c"), "a: b; c"),
    )
    def test_the_file_was_not_read(self, error, message):
        try:
            raise UserError("not JSON") from wrapped(error)
        except UserError as caught:
            reader = caught
        for whole in (error, wrapped(error), reader):
            found = machine_errors.reading_fault(whole, "/runs/b")
            self.assertRegex(str(found), f"^{message}")
            self.assertLen(str(found).splitlines(), 1)

    def test_the_file_was_read(self):
        for error in (
            UserError("/runs/a/x: not JSON"), ValueError("DATA_LOSS: checksum"), KeyError("x"),
            os_error(errno.ENOENT), os_error(errno.EISDIR), OSError("no thrift"),
        ):  # fmt: skip
            self.assertIsNone(machine_errors.reading_fault(wrapped(error), "/runs/b"))


if __name__ == "__main__":
    absltest.main()

"""A pool of one worker for the tests of a class."""

from absl.testing import parameterized

from restem.verify.programs.program_pool import ProgramPool


class PoolTest(parameterized.TestCase):
    """Grades programs under the default limits."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.pool = ProgramPool(workers=1)
        cls.addClassCleanup(cls.pool.close)

    def grade(self, text, tests):
        return self.pool.submit(text, tests).result()

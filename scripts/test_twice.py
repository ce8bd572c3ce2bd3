"""Tests of scripts/twice: `python3 -m unittest discover --start-directory scripts`."""

import contextlib
import importlib.machinery
import importlib.util
import io
import pathlib
import sys
import unittest

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
loader = importlib.machinery.SourceFileLoader("twice", str(HERE / "twice"))
twice = importlib.util.module_from_spec(importlib.util.spec_from_loader("twice", loader))
loader.exec_module(twice)


def said(**tests):
    """What a program of tests prints."""
    lines = [f"running {len(tests)} tests\n"]
    lines += [f"test {name} ... {how}\n" for name, how in tests.items()]
    return [*lines, "test result: as it was\n"]


class Twice(unittest.TestCase):
    def runs(self, *runs):
        """The exit code, and the commands, when commands end and print like this, one after the other."""
        commands = []

        def run(command):
            commands.append(command)
            return runs[len(commands) - 1]

        with contextlib.redirect_stdout(io.StringIO()) as out:
            code = twice.main(["cargo", "test"], run)
        self.assertEqual(len(commands), len(runs))
        return code, commands, out.getvalue()

    def test_what_passes_runs_once(self):
        self.assertEqual(self.runs((0, said(a="ok")))[0], 0)

    def test_what_failed_runs_again_alone_and_is_named(self):
        code, commands, out = self.runs((101, said(a="ok", b="FAILED")), (0, said(b="ok")))
        self.assertEqual(code, 0)
        self.assertEqual(commands[1][-3:], ["--", "--exact", "b"])
        self.assertIn("Passed only when run again: b", out)

    def test_what_fails_twice_fails(self):
        self.assertEqual(self.runs((101, said(a="FAILED")), (101, said(a="FAILED")))[0], 101)

    def test_what_does_not_run_again_fails(self):
        self.assertNotEqual(self.runs((101, said(a="FAILED")), (0, said()))[0], 0)

    def test_many_failures_are_no_accident(self):
        self.assertEqual(self.runs((101, said(a="FAILED", b="FAILED", c="FAILED", d="FAILED")))[0], 101)

    def test_a_program_that_broke_off_fails(self):
        self.assertEqual(self.runs((101, [*said(a="FAILED"), "running 2 tests\n", "test b ... ok\n"]))[0], 101)

    def test_what_does_not_compile_fails(self):
        self.assertEqual(self.runs((101, []))[0], 101)


if __name__ == "__main__":
    unittest.main()

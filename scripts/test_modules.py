"""Tests of scripts/modules: `python3 -m unittest discover --start-directory scripts`."""

import importlib.machinery
import importlib.util
import pathlib
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
loader = importlib.machinery.SourceFileLoader("modules", str(HERE / "modules"))
modules = importlib.util.module_from_spec(importlib.util.spec_from_loader("modules", loader))
loader.exec_module(modules)


def found(**files):
    """The cycles of a crate whose files are given by their paths, with `__` for `/`."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = pathlib.Path(folder, name.replace("__", "/") + ".rs")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        cycles = modules.cycles("x", pathlib.Path(folder, "lib.rs"))
        return [f"{where}: {' '.join(sorted(knot))}" for where, knot, _ in cycles]


class Cycles(unittest.TestCase):
    def test_two_modules_that_use_each_other_are_a_cycle(self):
        cycle = found(lib="mod a; mod b;", a="use crate::b::B; pub struct A;", b="pub struct B(super::a::A);")
        self.assertEqual(cycle, ["x: a b"])

    def test_one_direction_is_none(self):
        self.assertEqual(found(lib="mod a; mod b;", a="use crate::b::B;", b="pub struct B;"), [])

    def test_a_parent_that_uses_a_child_which_uses_it_is_a_cycle(self):
        child = "use super::Limit; pub fn open(_: Limit) {}"
        self.assertEqual(found(lib="mod a; pub struct Limit; pub fn run() { a::open(Limit) }", a=child), ["x: a self"])

    def test_a_parent_that_only_declares_and_hands_on_is_none(self):
        child = "use super::Limit; pub fn open(_: Limit) {}"
        self.assertEqual(found(lib="mod a; pub use a::open; pub struct Limit;", a=child), [])

    def test_a_parent_that_says_what_it_hands_on_uses_it(self):
        child = "use super::Limit; pub fn open(_: Limit) {}"
        root = "mod a; pub(crate) use a::open; pub struct Limit; fn run() { open(Limit) }"
        self.assertEqual(found(lib=root, a=child), ["x: a self"])

    def test_what_is_handed_on_belongs_to_where_it_is_defined(self):
        root = "mod a; mod b; pub use a::A; pub use b::*;"
        self.assertEqual(found(lib=root, a="pub struct A(crate::B);", b="pub struct B; fn f() -> crate::A {}"), ["x: a b"])

    def test_children_of_two_modules_make_a_cycle_of_these(self):
        cycle = found(
            lib="mod a; mod b;",
            a="mod one; mod two;",
            a__one="use crate::b::four::Four;",
            a__two="pub struct Two;",
            b="mod three; pub mod four;",
            b__three="use crate::a::two::Two;",
            b__four="pub struct Four;",
        )
        self.assertEqual(cycle, ["x: a b"])

    def test_a_cycle_far_below_is_found(self):
        files = {"a__one": "fn f() { super::two::g() }", "a__two": "fn g() { super::one::f() }"}
        cycle = found(lib="mod a;", a__mod="mod one; mod two;", **files)
        self.assertEqual(cycle, ["x::a: one two"])

    def test_a_cycle_over_three_modules_is_told_whole(self):
        after = {"a": "b", "b": "c", "c": "a"}
        files = {name: f"use crate::{next}::T; pub struct T;" for name, next in after.items()}
        self.assertEqual(found(lib="mod a; mod b; mod c;", **files), ["x: a b c"])

    def test_code_of_tests_does_not_count(self):
        user = """
            pub struct A;
            #[cfg(test)] use crate::b::B;
            #[cfg(all(test, unix))] fn helper() -> crate::b::B { }
            #[cfg(test)] #[allow(dead_code)] const LIST: [crate::b::B; 1] = [crate::b::B];
            struct S { #[cfg(test)] pub seen: crate::b::B, kept: u8 }
            #[cfg(test)] mod tests { use crate::b::B; }
            #[cfg(test)] mod more;
        """
        self.assertEqual(found(lib="mod a; mod b;", a=user, b="use crate::a::A; pub struct B;"), [])

    def test_code_that_is_not_only_for_tests_counts(self):
        user = "pub struct A; #[cfg(any(test, unix))] use crate::b::B;"
        self.assertEqual(found(lib="mod a; mod b;", a=user, b="use crate::a::A; pub struct B;"), ["x: a b"])

    def test_comments_and_texts_do_not_count(self):
        user = r"""
            pub struct A;
            // crate::b::B
            /* crate::b::B /* crate::b::B */ crate::b::B */
            const TEXTS: [&str; 3] = ["crate::b::B \" ", r#"crate::b::B " "#, "\\"];
            fn f<'a>(c: &'a str) { let _ = ['"', '\'', b'"']; }
        """
        self.assertEqual(found(lib="mod a; mod b;", a=user, b="use crate::a::A; pub struct B;"), [])

    def test_groups_names_and_modules_of_an_import_are_understood(self):
        users = [
            "use crate::{b::{self, B}};",
            "use crate::b as other; fn f() { other::g() }",
            "use crate::b::B as _;",
            "fn f() { use super::b; b::g() }",
            "use crate::b::*; fn f() -> B {}",
            "fn f() { $crate::b::m!() }",
        ]
        used = "use crate::a::A; pub struct B; pub fn g() {}"
        for user in users:
            with self.subTest(user):
                cycle = found(lib="mod a; mod b;", a=user + "pub struct A;", b=used)
                self.assertEqual(cycle, ["x: a b"])

    def test_names_of_other_crates_are_not_ours(self):
        user = "use http::Request; use ::http::Other; pub struct A;"
        self.assertEqual(found(lib="mod a; mod http;", a=user, http="pub struct Request; use crate::a::A;"), [])

    def test_modules_inside_of_a_file_count(self):
        root = "mod a { use crate::b::B; pub struct A; } mod b { pub struct B(super::a::A); }"
        self.assertEqual(found(lib=root), ["x: a b"])


class Exceptions(unittest.TestCase):
    PERMITTED = list(modules.exceptions("# why\nx: a b c\nx::y: d e # soon over\n"))

    def test_a_listed_cycle_passes_and_a_smaller_one_too(self):
        for knot in ("abc", "ab"):
            cycles = [("x", frozenset(knot), {}), ("x::y", frozenset("de"), {})]
            self.assertEqual(modules.judge(cycles, self.PERMITTED), ([], []))

    def test_a_larger_cycle_does_not_pass(self):
        new, _ = modules.judge([("x", frozenset("abcd"), {})], self.PERMITTED)
        self.assertEqual(len(new), 1)

    def test_an_exception_that_permits_nothing_is_over(self):
        _, over = modules.judge([("x", frozenset("ab"), {})], self.PERMITTED)
        self.assertEqual(over, [("x::y", frozenset("de"))])

    def test_writing_shrinks_the_list_and_never_adds(self):
        cycles = [("x", frozenset("ab"), {}), ("z", frozenset("fg"), {})]
        self.assertEqual(modules.written(cycles, self.PERMITTED), "x: a b\n")


class Picture(unittest.TestCase):
    def metadata(self, **used):
        package = lambda name: {
            "name": f"realtime-{name}",
            "id": name,
            "description": f"Does {name}. Pure: no I/O." if name == "low" else f"Does {name}.",
            "dependencies": [{"name": f"realtime-{n}", "kind": None} for n in used[name]]
            + [{"name": "realtime-tests", "kind": "dev"}, {"name": "serde", "kind": None}],
        }
        return {"packages": [package(name) for name in used], "workspace_default_members": ["top"]}

    def test_each_arrow_is_drawn_once(self):
        picture = modules.picture(self.metadata(low=[], middle=["low"], top=["middle", "low"], tests=["low"]))
        self.assertEqual(
            picture.splitlines()[2:-2],
            [
                "top          Does top",
                "│            → low",
                "└── middle   Does middle",
                "    └── low  Does low (pure)",
                "",
                "tests  Does tests",
                "       → low",
            ],
        )

    def test_a_new_arrow_changes_the_picture(self):
        before = modules.picture(self.metadata(low=[], middle=[], top=["middle", "low"], tests=[]))
        after = modules.picture(self.metadata(low=[], middle=["low"], top=["middle", "low"], tests=[]))
        self.assertNotEqual(before, after)


if __name__ == "__main__":
    unittest.main()

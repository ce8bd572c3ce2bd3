"""Reads the modules of a Rust crate and finds which module uses which.

It reads text, not types: a use is a `use` declaration, a path (`crate::hub::Room`, `super::LIMIT`, `room::open()`) or
the plain name of something that the module re-exports. Methods are not paths, so calling one is not a use.
Code that only tests compile (`#[cfg(test)]`) is left out.
"""

from __future__ import annotations

import bisect
import dataclasses
import pathlib
import re

TOKEN = re.compile(
    r"""
      (?P<space>\s+|//[^\n]*)
    | (?P<comment>/\*)
    | (?P<raw>(?:b|c)?r(?P<hashes>\#*)")
    | (?P<string>(?:b|c)?"(?:[^"\\]|\\.)*")
    | (?P<char>b?'(?:[^'\\]|\\(?:u\{[0-9a-fA-F_]+\}|x[0-9a-fA-F]{2}|.))')
    | (?P<lifetime>'\w+)
    | (?P<name>(?:r\#)?[A-Za-z_]\w*)
    | (?P<number>\d[\w]*)
    | (?P<mark>::|=>|->|.)
    """,
    re.VERBOSE | re.DOTALL,
)
COMMENT_EDGE = re.compile(r"/\*|\*/")
OPENING = {"(": ")", "[": "]", "{": "}"}
CLOSING = set(OPENING.values())
ITEM_WORDS = {"fn", "struct", "enum", "union", "trait", "type", "const", "static"}
STARTS_OF_ITEMS = ITEM_WORDS | {"pub", "use", "mod", "impl", "async", "unsafe", "extern", "macro_rules", "let"}
KEYWORDS = {"as", "in", "for", "where", "mut", "ref", "dyn", "impl", "move", "pub", "Self"}


@dataclasses.dataclass(frozen=True)
class Token:
    text: str
    line: int
    is_name: bool = False


@dataclasses.dataclass
class Import:
    """One name that a `use` declaration brings: `use a::{b as c, d::*}` makes two."""

    path: tuple[str, ...]
    name: str  # `*` for all names
    is_public: bool
    line: int


@dataclasses.dataclass(eq=False)
class Module:
    name: str
    file: pathlib.Path
    parent: Module | None = None
    children: dict[str, Module] = dataclasses.field(default_factory=dict)
    items: set[str] = dataclasses.field(default_factory=set)
    imports: list[Import] = dataclasses.field(default_factory=list)
    paths: dict[tuple[str, ...], int] = dataclasses.field(default_factory=dict)  # where each stands first

    def ancestors(self):
        """This module and those around it, innermost first."""
        module = self
        while module:
            yield module
            module = module.parent

    def walk(self):
        """This module and all below it."""
        yield self
        for child in self.children.values():
            yield from child.walk()


@dataclasses.dataclass(frozen=True)
class Use:
    """`user` uses something that `owner` defines."""

    user: Module
    owner: Module
    what: str
    file: pathlib.Path
    line: int


def tokens(text):
    """The tokens of a source text, without comments."""
    ends = [match.start() for match in re.finditer("\n", text)]
    found, at = [], 0
    while at < len(text):
        match = TOKEN.match(text, at)
        kind, start, at = match.lastgroup, at, match.end()
        if kind == "comment":
            at = end_of_comment(text, at)
        elif match["raw"]:
            closing = '"' + match["hashes"]
            at = text.index(closing, at) + len(closing)
            found.append(Token(text[start:at], bisect.bisect(ends, start) + 1))
        elif kind != "space":
            is_name = kind == "name"
            word = match[0].removeprefix("r#") if is_name else match[0]
            found.append(Token(word, bisect.bisect_left(ends, start) + 1, is_name))
    return found


def end_of_comment(text, at):
    """Where a block comment ends; they nest."""
    depth = 1
    while depth:
        edge = COMMENT_EDGE.search(text, at)
        if not edge:
            return len(text)
        depth += 1 if edge[0] == "/*" else -1
        at = edge.end()
    return at


def is_only_for_tests(attribute):
    """Whether `cfg(...)` cannot hold unless tests are compiled. `attribute` has the texts between the brackets."""
    if attribute[:2] != ["cfg", "("]:
        return False
    return not may_hold(attribute[2:-1])


def may_hold(condition):
    """Whether a condition may hold in a build without tests."""
    if condition == ["test"]:
        return False
    if condition[:1] in (["all"], ["any"]) and condition[1:2] == ["("]:
        parts = [may_hold(part) for part in split(condition[2:-1]) if part]
        return all(parts) if condition[0] == "all" else any(parts)
    return True


def split(texts):
    """Divides at commas that stand in no parentheses."""
    parts, depth = [[]], 0
    for text in texts:
        depth += (text == "(") - (text == ")")
        if text == "," and depth == 0:
            parts.append([])
        else:
            parts[-1].append(text)
    return parts


class Reader:
    """Fills a module from the tokens of its file."""

    def __init__(self, module, folder, stream):
        self.module, self.folder, self.stream = module, folder, stream
        self.at = 0

    def text(self, offset=0):
        at = self.at + offset
        return self.stream[at].text if 0 <= at < len(self.stream) else ""

    def read(self):
        depth = 0
        while self.at < len(self.stream):
            token = self.stream[self.at]
            if token.text == "#" and self.text(1) in ("[", "!"):
                if self.attribute() == "end":
                    return
            elif token.text == "use" and token.is_name and self.text(1) != "<":
                self.declaration()
            elif token.text == "mod" and self.text(2) in (";", "{"):
                self.child()
            elif token.text == "pub" and self.text(1) == "(":
                self.at = self.closing(self.at + 1) + 1
            elif token.is_name:
                self.name(depth)
            else:
                depth += (token.text in OPENING) - (token.text in CLOSING)
                self.at += 1

    def closing(self, at):
        """Where the bracket that opens here closes."""
        depth = 0
        for at in range(at, len(self.stream)):
            depth += (self.stream[at].text in OPENING) - (self.stream[at].text in CLOSING)
            if depth == 0:
                return at
        return at

    def attribute(self):
        """Passes an attribute, and what it keeps from other builds than those of tests."""
        inner = self.text(1) == "!"
        opening = self.at + 1 + inner
        if self.text(1 + inner) != "[":
            self.at += 1
            return None
        closing = self.closing(opening)
        texts = [token.text for token in self.stream[opening + 1 : closing]]
        if texts[:2] == ["path", "="]:
            raise SystemExit(f"{self.module.file}: #[path] is not understood")
        if is_only_for_tests(texts):
            if inner:
                return "end"
            self.at = closing + 1
            self.skip()
        elif texts[:1] == ["derive"] or texts[:1] == ["cfg"]:
            self.at = closing + 1
        else:
            # A path may stand inside: `#[arg(value_parser = parse::port)]`.
            self.at = opening + 1
        return None

    def skip(self):
        """Passes an item, a field, an arm or a statement, with its attributes."""
        while self.text() == "#":
            self.at = self.closing(self.at + 1) + 1
        is_field = self.text() == "pub" and ":" in (self.text(2), self.text(5))
        is_item = self.text() in STARTS_OF_ITEMS and not is_field
        while self.at < len(self.stream):
            text = self.text()
            if text in CLOSING:
                return
            if text in OPENING:
                self.at = self.closing(self.at)
            self.at += 1
            if text == ";" or (text == "{" and is_item) or (text == "," and not is_item):
                return

    def child(self):
        name, inline = self.text(1), self.text(2) == "{"
        self.at += 2
        child = self.module.children[name] = Module(name, self.module.file, self.module)
        folder = self.folder / name
        if inline:
            end = self.closing(self.at)
            Reader(child, folder, self.stream[self.at + 1 : end]).read()
            self.at = end + 1
        else:
            beside, below = self.folder / f"{name}.rs", folder / "mod.rs"
            child.file = beside if beside.exists() else below
            read_file(child, folder)

    def declaration(self):
        """Reads `use ...;`."""
        line = self.stream[self.at].line
        is_public = self.text(-1) == "pub" or (self.text(-1) == ")" and self.is_visibility())
        self.at += 1
        self.tree((), is_public, line)

    def is_visibility(self):
        """Whether what stands before is `pub(...)`."""
        at = self.at - 1
        while at >= 0 and self.stream[at].text != "(":
            at -= 1
        return at > 0 and self.stream[at - 1].text == "pub"

    def tree(self, prefix, is_public, line):
        path = prefix
        while self.at < len(self.stream):
            token = self.stream[self.at]
            self.at += 1
            if token.text == "{":
                while self.text() != "}":
                    self.tree(path, is_public, self.stream[self.at].line)
                    if self.text() == ",":
                        self.at += 1
                self.at += 1
                path = None
            elif token.text == "as":
                self.bring(path, self.text(), is_public, line)
                self.at += 1
                path = None
            elif token.text == "*":
                self.bring(path, "*", is_public, line)
                path = None
            elif token.is_name:
                if token.text != "self" or not path:
                    path = (*path, token.text)
            elif token.text == "::" and not path:
                path = ("::",)
            elif token.text in (",", "}", ";"):
                self.at -= token.text != ";"
                break
        if path and path != prefix or path and self.stream[self.at - 1].text == "self":
            self.bring(path, path[-1], is_public, line)

    def bring(self, path, name, is_public, line):
        if path[0] != "::":
            self.module.imports.append(Import(path, name, is_public, line))

    def name(self, depth):
        """Reads a name and the path that it begins; takes note of what is defined here."""
        token, before = self.stream[self.at], self.text(-1)
        self.at += 1
        if depth == 0 and token.text in ITEM_WORDS and self.stream[self.at].is_name:
            defined = self.text(1) if self.text() in ("mut",) else self.text()
            if defined not in ITEM_WORDS | {"unsafe", "extern", "async"}:
                self.module.items.add(defined)
                self.at += 1
            return
        if token.text == "macro_rules" and self.text() == "!":
            self.module.items.add(self.text(1))
            self.at += 2
            return
        path = [token.text]
        while self.text() == "::" and self.at + 1 < len(self.stream) and self.stream[self.at + 1].is_name:
            path.append(self.text(1))
            self.at += 2
        if before in ("::", ".", "fn") or token.text in KEYWORDS:
            return
        # A lone small name is a variable or a field unless it is called.
        if len(path) > 1 or path[0][0].isupper() or self.text() in ("(", "!"):
            self.module.paths.setdefault(tuple(path), token.line)


def read_file(module, folder):
    Reader(module, folder, tokens(module.file.read_text())).read()


def read_crate(file):
    """The module tree whose root is this file."""
    root = Module("crate", file)
    read_file(root, file.parent)
    return root


def lookup(module, name, seen=frozenset()):
    """What a name means in a module: a module, `(module, name)` for what is defined there, or nothing that is ours."""
    if (module, name) in seen:
        return None
    seen |= {(module, name)}
    if name in module.children:
        return module.children[name]
    if name in module.items:
        return module, name
    for brought in module.imports:
        if brought.name == name and (found := resolve(module, brought.path, seen)):
            return found
    for brought in module.imports:
        if brought.name == "*" and isinstance(inside := resolve(module, brought.path, seen), Module):
            if found := lookup(inside, name, seen):
                return found
    return None


def resolve(module, path, seen=frozenset()):
    """What a path means in a module; as `lookup`."""
    here, rest = module, list(path)
    if rest[0] == "crate":
        here, rest = list(module.ancestors())[-1], rest[1:]
    elif rest[0] in ("self", "super"):
        while rest and rest[0] in ("self", "super"):
            here = here.parent if rest.pop(0) == "super" else here
            if here is None:
                return None
    elif not (found := lookup(module, rest[0], seen)) or not isinstance(found, Module):
        return found
    else:
        here, rest = found, rest[1:]
    while rest:
        # A name that is not found is made by a macro of that module.
        found = lookup(here, rest[0], seen) or (here, rest[0])
        if not isinstance(found, Module):
            return found
        here, rest = found, rest[1:]
    return here


def uses(root):
    """Every use of something that another module of the crate defines."""
    for module in root.walk():
        # A private import is a use; a public one only hands the name on, until the module's own code says it.
        private = [brought for brought in module.imports if not brought.is_public]
        imported = {brought.name for brought in private if not isinstance(resolve(module, brought.path), Module)}
        said = [(path, line) for path, line in module.paths.items() if path[0] not in imported]
        for path, line in [*((brought.path, brought.line) for brought in private), *said]:
            found = resolve(module, path)
            if isinstance(found, tuple) and found[0] is not module:
                yield Use(module, found[0], "::".join(path), module.file, line)

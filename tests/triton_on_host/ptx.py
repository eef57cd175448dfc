"""Parses the PTX of one kernel into blocks of instructions."""

from __future__ import annotations

import re
from dataclasses import dataclass

IGNORED = (".loc", ".file", ".reg", ".pragma", ".local", ".shared", ".maxntid", ".reqntid")


@dataclass(frozen=True)
class Instruction:
    """`@guard parts[0].parts[1]... operands`."""

    text: str
    guard: str | None
    negated: bool
    parts: tuple[str, ...]
    operands: tuple[str, ...]

    @property
    def ends_block(self) -> bool:
        return self.parts[0] in ("bra", "ret")


@dataclass(frozen=True)
class Function:
    """A kernel: types of its parameters and registers, blocks, and which block a label names."""

    name: str
    parameters: tuple[str, ...]
    register_types: dict[str, str]
    blocks: list[list[Instruction]]
    labels: dict[str, int]


def parse(ptx: str) -> Function:
    entry = re.search(r"\.entry\s+(\w+)\(([^)]*)\)", ptx)
    if not entry:
        raise ValueError("the PTX has no .entry")
    body = re.split(r"\n\}", ptx[ptx.index("{", entry.end()) + 1 :])[0]
    blocks: list[list[Instruction]] = [[]]
    labels = {}
    for line in body.split("\n"):
        code = re.sub(r"//.*", "", line).strip()
        if code.startswith(IGNORED):
            continue
        label = re.match(r"(\$\w+):", code)
        if label:
            if blocks[-1]:
                blocks.append([])
            labels[label[1]] = len(blocks) - 1
            code = code[label.end() :]
        for part in code.split(";"):
            # A brace alone opens or closes the scope of inline assembly.
            text = re.sub(r"^\{\s+", "", part.replace("\t", " ").strip())
            if text in ("", "{", "}"):
                continue
            blocks[-1].append(instruction(text))
            if blocks[-1][-1].ends_block:
                blocks.append([])
    types = {prefix: kind for kind, prefix in re.findall(r"\.reg\s+\.(\w+)\s+%([a-z]+)<\d+>", body)}
    parameters = tuple(re.findall(r"\.param\s+\.(\w+)", entry[2]))
    return Function(entry[1], parameters, types, blocks, labels)


def instruction(text: str) -> Instruction:
    guard = re.match(r"@(!?)(%p\d+)\s+", text)
    code = text[guard.end() :] if guard else text
    opcode, _, rest = code.partition(" ")
    return Instruction(
        text,
        guard[2] if guard else None,
        bool(guard and guard[1]),
        tuple(opcode.split(".")),
        tuple(split(rest)),
    )


def split(operands: str) -> list[str]:
    """At commas outside of braces and brackets."""
    return [part.strip() for part in re.split(r",(?![^{\[]*[}\]])", operands) if part.strip()]


def members(operand: str) -> list[str]:
    """Of a vector `{a, b}`; of anything else, itself."""
    return [part.strip() for part in operand.strip("{} ").split(",")]

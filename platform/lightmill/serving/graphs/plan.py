"""From a declared graph and its members' signatures to a plan that can be run, or to what is wrong with it. Pure.

Where an input of an endpoint comes from: under its name, or the name that `inputs` gives it, from the nearest earlier
step that returns it, else from the request. In a later step that must be said, by `request.NAME`, unless an earlier
step takes the same from the request: a name that no step returns is more often a mistake than meant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from lightmill.errors import RequestError
from lightmill.records.graphs import REQUEST, EndpointNode, GraphNode, ParallelNode, SequenceNode, SwitchNode
from lightmill.records.signature import Signature, TensorSpec
from lightmill.serving.fitting import WIDENS
from lightmill.serving.tensors import BYTES, ModelDescription, shape_text

Describe = Callable[[str], ModelDescription]
"""Returns what an endpoint takes and answers, or raises NotFoundError or another LightmillError."""
Specs = dict[str, TensorSpec]
_FLOATS = frozenset({"FP16", "FP32", "FP64"})
_COUNTED = frozenset({"BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", BYTES})


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where an input comes from: an earlier step's output, or the request."""

    name: str
    request: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Ask an endpoint: its inputs by name."""

    endpoint: str
    inputs: Mapping[str, Source]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """One after another."""

    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fan:
    """At once, then joined."""

    branches: tuple[Step, ...]
    join: Literal["mean", "vote", "concat"]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Each row to its case."""

    field: Source
    cases: Mapping[str, Step]
    default: Step | None


Step = Call | Chain | Fan | Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A graph that fits together: what it takes and answers, and what to do."""

    signature: Signature
    root: Step


def plan_of(node: GraphNode, describe: Describe) -> Plan:
    """Return the plan of a graph.

    Raises:
        RequestError: Names, datatypes or shapes do not fit; the message names the field of the graph.
        LightmillError: What `describe` raises of an endpoint, with the field.
    """
    maker = _Maker(describe)
    root, outputs = maker.step(node, {}, "graph", first=True)
    return Plan(signature=Signature(inputs=tuple(maker.wanted.values()), outputs=tuple(outputs.values())), root=root)


class _Maker:
    """Goes through a graph once; `wanted` fills with what the request must hold."""

    def __init__(self, describe: Describe) -> None:
        self._describe = describe
        self.wanted: Specs = {}

    def step(self, node: GraphNode, known: Specs, at: str, *, first: bool) -> tuple[Step, Specs]:
        """Return what to do for a node where earlier steps returned `known`, and what it returns."""
        match node:
            case EndpointNode():
                return self._call(node, known, at, first)
            case SequenceNode():
                return self._chain(node, known, at, first)
            case ParallelNode():
                return self._fan(node, known, at, first)
            case SwitchNode():
                return self._choice(node, known, at, first)

    def _call(self, node: EndpointNode, known: Specs, at: str, first: bool) -> tuple[Step, Specs]:
        try:
            model = self._describe(node.endpoint)
        except RequestError as exc:
            raise type(exc)(f"Field {at} is endpoint {node.endpoint!r}: {exc.message}") from exc
        takes = {spec.name: spec for spec in model.signature.inputs}
        for name in node.inputs:
            if name not in takes:
                raise RequestError(
                    f"Field {at}.inputs has {name!r}, which endpoint {node.endpoint!r} does not take; it takes "
                    f"{', '.join(takes)}."
                )
        sources = {
            name: self._source(node.inputs.get(name, name), spec, known, f"{at}.inputs.{name}", first)
            for name, spec in takes.items()
        }
        return Call(endpoint=node.endpoint, inputs=sources), {spec.name: spec for spec in model.signature.outputs}

    def _chain(self, node: SequenceNode, known: Specs, at: str, first: bool) -> tuple[Step, Specs]:
        steps, outputs = [], known
        for place, one in enumerate(node.steps):
            step, outputs = self.step(one, known, f"{at}.steps[{place}]", first=first and not place)
            known = {**known, **outputs}
            steps.append(step)
        return Chain(steps=tuple(steps)), outputs

    def _fan(self, node: ParallelNode, known: Specs, at: str, first: bool) -> tuple[Step, Specs]:
        made = [self.step(one, known, f"{at}.branches[{n}]", first=first) for n, one in enumerate(node.branches)]
        answers = [outputs for _, outputs in made]
        names = node.outputs or tuple(name for name in answers[0] if _joined(node.join, answers, name) is not None)
        found: Specs = {}
        for name in names:
            spec = _joined(node.join, answers, name)
            if spec is None:
                told = "; ".join(f"branches[{n}] has {_told(one.get(name))}" for n, one in enumerate(answers))
                raise RequestError(f"Field {at}.outputs has {name!r}, which {node.join!r} cannot join: {told}.")
            found[name] = spec
        if not found:
            told = "; ".join(", ".join(map(_told, one.values())) for one in answers)
            raise RequestError(f"Field {at}.join is {node.join!r}, and the branches have no output to join so: {told}.")
        return Fan(branches=tuple(step for step, _ in made), join=node.join, outputs=tuple(found)), found

    def _choice(self, node: SwitchNode, known: Specs, at: str, first: bool) -> tuple[Step, Specs]:
        whole = all(case.lstrip("-").isdigit() for case in node.cases)
        cases = {case: self.step(one, known, f"{at}.cases[{case!r}]", first=first) for case, one in node.cases.items()}
        default = self.step(node.default, known, f"{at}.default", first=first) if node.default else None
        spec = known.get(node.field) or self.wanted.get(node.field)
        if spec is None:
            spec = TensorSpec(name=node.field, datatype="INT64" if whole else BYTES, shape=(-1,))
        if spec.datatype not in _COUNTED or spec.shape not in ((-1,), (-1, 1)):
            raise RequestError(
                f"Field {at}.field is {node.field!r}, {_told(spec)}; a switch needs one whole number or text a row."
            )
        source = self._source(node.field, spec, known, f"{at}.field", True)
        made = [*cases.values(), *((default,) if default else ())]
        outputs = made[0][1]
        for _, others in made[1:]:
            if not _alike(outputs, others):
                raise RequestError(
                    f"Field {at}.cases return different outputs: {', '.join(map(_told, outputs.values()))} and "
                    f"{', '.join(map(_told, others.values()))}; all must return the same."
                )
        steps = {case: step for case, (step, _) in cases.items()}
        return Choice(field=source, cases=steps, default=default[0] if default else None), outputs

    def _source(self, name: str, spec: TensorSpec, known: Specs, at: str, first: bool) -> Source:
        asked = name.removeprefix(REQUEST)
        if asked == name and name in known:
            if not _fits(known[name], spec):
                raise RequestError(f"Field {at} takes {_told(spec)}, but {_told(known[name])} is what comes.")
            return Source(name=name, request=False)
        if asked == name and not first and name not in self.wanted:
            there = ", ".join([*known, *(REQUEST + one for one in self.wanted)])
            raise RequestError(
                f"Field {at} is {name!r}, which no earlier step returns; there are {there}. Write "
                f"{REQUEST}{name} for an input of the request."
            )
        mine = spec.model_copy(update={"name": asked})
        before = self.wanted.get(asked)
        if before is not None and not (_fits(before, mine) and before.datatype == mine.datatype):
            raise RequestError(
                f"Field {at} takes {_told(mine)} of the request, and another step takes {_told(before)} of that name; "
                "give one of them another name in `inputs`."
            )
        merged = mine if before is None else before.model_copy(update={"shape": _narrower(before.shape, mine.shape)})
        self.wanted[asked] = merged
        return Source(name=asked, request=True)


def _joined(join: str, answers: list[Specs], name: str) -> TensorSpec | None:
    """Return what branches' outputs of one name become, None if they cannot be joined so."""
    specs = [one[name] for one in answers if name in one]
    if len(specs) != len(answers) or len({spec.datatype for spec in specs}) > 1:
        return None
    first = specs[0]
    if join == "concat":
        if first.datatype == BYTES or len({len(spec.shape) for spec in specs}) > 1:
            return None
        if len(first.shape) == 1:
            return first.model_copy(update={"shape": (-1, len(specs))})
        if len({spec.shape[:-1] for spec in specs}) > 1:
            return None
        last = [spec.shape[-1] for spec in specs]
        return first.model_copy(update={"shape": (*first.shape[:-1], -1 if -1 in last else sum(last))})
    if not all(_fits(spec, first) for spec in specs):
        return None
    return first if first.datatype in (_FLOATS if join == "mean" else _COUNTED) else None


def _fits(given: TensorSpec, wanted: TensorSpec) -> bool:
    """Whether tensors of one kind go where another is wanted; an open size may turn out to fit."""
    if given.datatype != wanted.datatype and wanted.datatype not in WIDENS[given.datatype]:
        return False
    sizes = zip(given.shape, wanted.shape, strict=False)
    return len(given.shape) == len(wanted.shape) and all(one == other or -1 in (one, other) for one, other in sizes)


def _alike(one: Specs, other: Specs) -> bool:
    if one.keys() != other.keys():
        return False
    return all(_fits(one[name], other[name]) and one[name].datatype == other[name].datatype for name in one)


def _narrower(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(max(sizes) for sizes in zip(one, other, strict=True))


def _told(spec: TensorSpec | None) -> str:
    return f"{spec.name!r} {spec.datatype} {shape_text(spec.shape)}" if spec else "no such output"

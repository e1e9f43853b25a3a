"""Compiled potentials: energy, forces and stress of a network as one graph of fused kernels, for any batch.

`torch.compile` cannot differentiate a compiled energy twice, so that forces could not be trained on. Energy and forces
are therefore traced together, down to single operations with symbolic lengths, and that graph is compiled; training
differentiates it once more, as any other. One graph serves all batches of one form (see `mcgm.leaves.take_apart`).
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource, LocalSource
from torch._functorch import config as functorch_config
from torch._inductor.compile_fx import compile_fx
from torch._inductor.exc import InductorError
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    GuardOnDataDependentSymNode,
    ShapeEnv,
    StatelessSymbolicContext,
)
from torch.nn.utils.stateless import _reparametrize_module

from mcgm.agreement import disagreement
from mcgm.backbones.base import Backbone
from mcgm.batch import Batch
from mcgm.errors import ConfigError
from mcgm.leaves import Leaf, put_together, take_apart
from mcgm.long_range.base import LongRange
from mcgm.long_range.mcgm.assignment import Assignment
from mcgm.potential import ElementReference, NetworkPotential, Potential, Prediction

MOST_GRAPHS = 8
"""Graphs that are compiled for one potential; forms of batches beyond them run uncompiled."""

COMPONENTS = 3
"""Up to this length any axis but the first counts components, and is the same in all batches."""

_log = logging.getLogger("mcgm")

_DATA_DEPENDENT = (DataDependentOutputException, DynamicOutputShapeException, GuardOnDataDependentSymNode)


class CompiledPotential(Potential):
    """A network potential whose predictions come from compiled graphs; equal to it but for rounding.

    The first batch of a form runs as it is; the second compiles, which takes a minute or two, so that what occurs only
    once is not compiled for. Three things run as they are: batches whose positions or cells require grad, blocks that
    look for labels of clusters (K-means++, random), unless `clusters` are given, and forms of batches for which the
    compiler fails or makes something else of the network, which is found by comparing results at once, and logged.

    Args:
        network: the potential; its weights are shared, so that training trains both.

    Raises:
        ConfigError: a committee, or there is no compiler; or, at a prediction, a network that cannot be traced.
    """

    def __init__(self, network: Potential) -> None:
        super().__init__()
        if not isinstance(network, NetworkPotential):
            raise ConfigError(
                f"compile: got a {type(network).__name__}; required: a single network. Compile the members, one by one."
            )
        require_compiler(network.device)
        self.network = network
        self.specification = network.specification
        self.elements = network.elements
        self._graphs = _Graphs()

    @property
    def backbone(self) -> Backbone:  # type: ignore[override]
        """The network's."""
        return self.network.backbone

    @property
    def scale(self) -> Tensor:  # type: ignore[override]
        """The network's."""
        return self.network.scale

    @property
    def references(self) -> ElementReference:  # type: ignore[override]
        """The network's."""
        return self.network.references

    @property
    def block(self) -> LongRange:
        """The network's."""
        return self.network.block

    def index(self, batch: Batch) -> Batch:
        """See the base class."""
        return self.network.index(batch)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The network's, under its own names: files of compiled potentials are those of the network."""
        return self.network.state_dict(*args, **kwargs)

    def forward(
        self,
        batch: Batch,
        *,
        forces: bool = True,
        stress: bool | None = None,
        clusters: tuple[tuple[Assignment, ...], ...] | None = None,
        generator: torch.Generator | None = None,
    ) -> Prediction:
        """See the base class."""
        batch = self.network.ready(batch)
        stress = forces and (batch.periodic if stress is None else stress)
        looks = clusters is None and self.specification.has_labels
        if looks or batch.positions.requires_grad or batch.cell.requires_grad:
            return self.network(batch, forces=forces, stress=stress, clusters=clusters, generator=generator)
        wanted = _Wanted(forces=forces, stress=stress, create_graph=self.network.training and torch.is_grad_enabled())
        values, form = take_apart((batch, clusters))
        key = wanted, self.dtype, self.device, form
        graph = self._graphs.of(key, values) or self._graphs.new(key, self.network, batch, clusters, values)
        if graph is None:
            return self.network(batch, forces=forces, stress=stress, clusters=clusters)
        return graph(values)


def require_compiler(device: torch.device) -> None:
    """Raise a `ConfigError` where kernels for this device could not be compiled."""
    compilers = (os.environ.get("CXX", "g++"), "clang++")
    if device.type == "cpu" and not any(shutil.which(name) for name in compilers):
        raise ConfigError(
            f"compile: found none of {', '.join(compilers)}; required: a C++ compiler. Install one (g++), name it in "
            "the environment variable CXX, or leave `compile` out."
        )


@dataclass(frozen=True)
class _Wanted:
    """What is computed, and whether the results can be differentiated by the weights."""

    forces: bool
    stress: bool
    create_graph: bool


@dataclass(frozen=True, eq=False)
class _Weights:
    """Where the weights of a network are: read anew at every call, for training, casts and moves exchange tensors."""

    homes: tuple[tuple[dict[str, Tensor | None], str], ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, network: NetworkPotential) -> Self:
        """Parameters and buffers of all modules, each once."""
        found: dict[int, tuple[dict[str, Any], str, str]] = {}
        for prefix, module in network.named_modules():
            for home in (module._parameters, module._buffers):
                for name, value in home.items():
                    if value is not None:
                        found.setdefault(id(value), (home, name, f"{prefix}.{name}" if prefix else name))
        homes, names = (tuple(part) for part in zip(*((f[:2], f[2]) for f in found.values()), strict=True))
        return cls(homes, names)

    @property
    def values(self) -> list[Tensor]:
        """As they are now."""
        return [home[name] for home, name in self.homes]  # type: ignore[misc]


@dataclass(frozen=True, eq=False)
class _Graph:
    """A compiled prediction, its result's form, and the conditions on lengths under which it is right."""

    function: Callable[..., Sequence[Leaf]]
    weights: _Weights
    result: Prediction
    lengths: Sequence[tuple[int, int]]
    holds: Callable[[Sequence[Leaf]], bool]
    create_graph: bool

    def __call__(self, values: Sequence[Leaf]) -> Prediction:
        with torch.set_grad_enabled(self.create_graph):
            found = self.function(*_lengths(values, self.lengths), *values, *self.weights.values)
        return put_together(self.result, found)


_Key = tuple[_Wanted, torch.dtype, torch.device, Hashable]


class _Graphs:
    """Graphs by the form of batches; a copy of a potential starts without any."""

    def __init__(self) -> None:
        self._found: dict[Hashable, list[_Graph]] = {}
        self._seen: set[Hashable] = set()
        self._refused: set[Hashable] = set()
        self._is_full = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)()

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(len(graphs) for graphs in self._found.values())

    def of(self, key: Hashable, values: Sequence[Leaf]) -> _Graph | None:
        """A graph that serves a batch of these leaves."""
        return next((graph for graph in self._found.get(key, ()) if graph.holds(values)), None)

    def new(
        self, key: _Key, network: NetworkPotential, batch: Batch, clusters: Any, values: Sequence[Leaf]
    ) -> _Graph | None:
        """A graph for this batch and others like it.

        `None` where none was met before, there are too many, or the compiler fails or makes something else of it.
        """
        if key not in self._seen:
            self._seen.add(key)
            return None
        if key in self._refused:
            return None
        if self.count >= MOST_GRAPHS:
            if not self._is_full:
                _log.warning("%d graphs are compiled; further forms of batches run uncompiled.", MOST_GRAPHS)
            self._is_full = True
            return None
        _log.info("compiling for %r", batch)
        try:
            graph = _compiled(network, key[0], batch, clusters)
            wrong = _difference(graph, network, key[0], batch, clusters, values)
        except InductorError as error:
            wrong = f"stops with {_in_a_line(error.inner_exception)}"
        if wrong is not None:
            self._refused.add(key)
            _log.warning(
                "torch %s, compiling this network, %s. It runs uncompiled; the training or simulation is right, but "
                "not faster.",
                torch.__version__,
                wrong,
            )
            return None
        self._found.setdefault(key, []).append(graph)
        return graph


def _difference(
    graph: _Graph,
    network: NetworkPotential,
    wanted: _Wanted,
    batch: Batch,
    clusters: Any,
    values: Sequence[Leaf],
) -> str | None:
    """What of the network's own results is another thing when compiled, gradients included."""
    expected = network.predict(batch, **dataclasses.asdict(wanted), clusters=clusters)
    wrong = disagreement(graph(values), expected, network, batch, gradients=wanted.create_graph)
    return wrong and f"makes something else of it: {wrong}"


def _in_a_line(error: Exception) -> str:
    """Of many lines, as a C++ compiler writes them, the first that tells of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    return f"{type(error).__name__}: {next((line for line in lines if ' error: ' in line), lines[0])}"


def _lengths(values: Sequence[Leaf], places: Sequence[tuple[int, int]]) -> list[int]:
    return [values[leaf].shape[axis] for leaf, axis in places]  # type: ignore[union-attr]


def _compiled(network: NetworkPotential, wanted: _Wanted, batch: Batch, clusters: Any) -> _Graph:
    """Trace with symbolic lengths, and compile.

    Raises:
        ConfigError: what is computed depends on numbers.
    """
    environment = ShapeEnv(duck_shape=False)
    fake = FakeTensorMode(shape_env=environment, allow_non_fake_inputs=True)
    fake.cache_enabled = False  # nearly every operation is met once
    values = [_symbolic(fake, k, value) for k, value in enumerate(take_apart((batch, clusters))[0])]
    weights = _Weights.of(network)
    parameters = [fake.from_tensor(value, static_shapes=True) for value in weights.values]
    places = [
        (leaf, axis)
        for leaf, value in enumerate(values)
        if isinstance(value, Tensor)
        for axis, length in enumerate(value.shape)
        if isinstance(length, torch.SymInt)
    ]
    arguments = [*_lengths(values, places), *values, *parameters]
    results: list[Prediction] = []

    def predict(*given: Any) -> tuple[Tensor | int, ...]:
        end = len(places) + len(values)
        symbolic_batch, symbolic_clusters = put_together((batch, clusters), given[len(places) : end])
        own = dict(zip(weights.names, given[end:], strict=True))
        with _reparametrize_module(network, own):
            found = network.predict(
                symbolic_batch,
                **dataclasses.asdict(wanted),
                clusters=symbolic_clusters,
            )
        results.append(found)
        return tuple(take_apart(found)[0])

    try:
        with fake, enable_python_dispatcher(), torch.set_grad_enabled(wanted.create_graph):
            traced = _without_detach(make_fx(predict)(*arguments))
    except _DATA_DEPENDENT as error:
        raise ConfigError(
            "compile: what this potential computes depends on values, not on lengths alone; required: a block and a "
            "backbone that never look at them. Leave `compile` out."
        ) from error
    holds = _conditions(environment, values)
    function = fused(traced, arguments, create_graph=wanted.create_graph)
    return _Graph(function, weights, results[-1], places, holds, wanted.create_graph)


def fused(traced: GraphModule, arguments: Sequence[Any], *, create_graph: bool) -> Callable[..., Any]:
    """The graph as fused kernels, differentiable once where `create_graph`.

    Equal constants stay apart (`cse`): torch 2.13 would make the zeros that a sum starts from and those that are joined
    to other columns one tensor, and write the sum into both.
    """
    with torch.set_grad_enabled(create_graph), functorch_config.patch(cse=False):
        function: Any = compile_fx(traced, arguments)
    return function  # type: ignore[no-any-return]


def _conditions(environment: ShapeEnv, values: Sequence[Any]) -> Callable[[Sequence[Leaf]], bool]:
    """Whether lengths (and strides) of other leaves are such that the graph is right for them.

    The expressions are torch's own, of lengths alone. Joined here and not by it (2.13): it leaves out the brackets.
    """
    sources = [LocalSource(f"t{k}") for k in range(len(values))]  # the names that torch gives them, too
    found = environment.produce_guards(values, sources, ignore_static=False)
    together: Any = compile(" and ".join(f"({condition})" for condition in found) or "True", "<conditions>", "eval")
    return lambda given: bool(environment.evaluate_guards_expression(together, given))


def _symbolic(fake: FakeTensorMode, leaf: int, value: Tensor | int) -> Any:
    """A tensor without numbers whose lengths are symbols (but for 0, 1, and of components), or a symbol."""
    if isinstance(value, int):
        return value if value < 2 else _symbolic(fake, leaf, torch.empty(value, 0)).shape[0]
    sizes = [
        DimDynamic.DYNAMIC if length > (COMPONENTS if axis else 1) else DimDynamic.STATIC
        for axis, length in enumerate(value.shape)
    ]
    context: Any = StatelessSymbolicContext(dynamic_sizes=sizes)
    return fake.from_tensor(value, source=ConstantSource(f"leaf{leaf}"), symbolic_context=context)


def _without_detach(graph: GraphModule) -> GraphModule:
    """What autograd has kept for itself is traced as detached, and would not be differentiated again."""
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.recompile()
    return graph

"""Times of a comparison are those of what its variants train: precision, compilation, clusters."""

import shutil

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from mcgm.potential import NetworkPotential
from mcgm.registry import build
from mcgm.training import timing
from mcgm.training.config import CompareConfig
from mcgm.training.recipe import merge, to_config


@pytest.fixture
def measured(small_recipe, tmp_path, monkeypatch):
    """The speeds of untrained models of these variants, each timed three times."""
    monkeypatch.setattr(timing, "ROUNDS", 3)

    def measure(**variants):
        content = merge(small_recipe, {"variants": variants}) | {"seeds": [0]}
        config = to_config(content, CompareConfig)
        paths = {}
        for name in variants:
            model = config.cell(name, 0, "").model
            paths[name] = tmp_path / f"{name}.safetensors"
            build(
                long_range=model.long_range,
                cutoff=model.cutoff,
                backbone_options=model.backbone_options,
                long_range_options=model.long_range_options,
            ).save(paths[name])
        return timing.measure(config, paths)

    return measure


def test_mixed_precision_is_timed_in_mixed_precision(measured):
    seen = {True: set(), False: set()}
    with register_module_forward_hook(
        lambda module, inputs, output: (
            seen[module.training].add(output.dtype) if isinstance(module, torch.nn.Linear) else None
        )
    ):
        measured(single={})
        assert seen == {True: {torch.float32}, False: {torch.float32}}
        speeds = measured(mixed={"training": {"precision": "bf16-mixed"}})
    assert seen == {True: {torch.float32, torch.bfloat16}, False: {torch.float32}}
    assert speeds["mixed"].seconds_per_epoch > 0
    assert speeds["mixed"].inference_ms_per_molecule > 0


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_training_is_timed_compiled(measured, traced_graphs):
    assert measured(plain={})["plain"].seconds_per_epoch > 0
    assert not traced_graphs
    measured(fused={"training": {"compile": True}})
    assert len(traced_graphs) > 0


def test_clusters_of_an_epoch_are_found_once_for_a_step(measured, monkeypatch):
    given = []
    forward = NetworkPotential.forward

    def note(self, batch, **options):
        given.append(options.get("clusters") is not None)
        return forward(self, batch, **options)

    monkeypatch.setattr(NetworkPotential, "forward", note)
    block = {"long_range": "mcgm_paper"}
    measured(each={"model": block})
    assert not any(given)
    given.clear()
    measured(epoch={"model": block | {"long_range_options": {"recluster": "epoch"}}})
    assert given[:3] == [False, True, False]  # clusters, the step with them, and a prediction

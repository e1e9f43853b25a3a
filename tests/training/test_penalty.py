"""A block's penalty on its own weights takes part in training."""

from mcgm import load
from mcgm.cli import main

SETTINGS = [
    "--model.cutoff=3.0",
    "--model.long_range=range",
    "--model.backbone_options={channels: 8, filters: 8, radial: 8, layers: 2}",
    "--training.tensorboard=false",
    "--training.epochs=5",
    "--training.batch_structures=4",
    "--training.schedule={kind: constant, warmup: 0}",
    "--training.learning_rate=1e-2",
    "--training.weight_decay=0",
    "--training.clip=null",
    "--training.ema=null",
]


def test_the_penalty_of_master_nodes_makes_their_strengths_smaller(data_file, tmp_path):
    sizes = []
    for penalty in (0.0, 1000.0):
        output = tmp_path / f"penalty{penalty:g}"
        options = f"--model.long_range_options={{heads: 2, node_channels: 8, penalty: {penalty}}}"
        assert main(["train", str(data_file), "-o", str(output), *SETTINGS, options]) == 0
        sizes.append(load(output / "model.safetensors").long_range.strength.base.detach().abs().mean())
    assert sizes[1] < sizes[0] - 0.02

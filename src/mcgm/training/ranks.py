"""Several processes train one model: what they add up, and how one tells the others that it cannot go on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mcgm.errors import TooLargeError
from mcgm.files import LOCK, claimed


def is_first_rank() -> bool:
    """Whether this process is the first of those that were started together, by Lightning, torchrun or SLURM."""
    return all(
        os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
    )


def claimed_together(folder: Path) -> AbstractContextManager[None]:
    """Hold the lock of a folder that all ranks write; the first one has it for them, see `mcgm.files.claimed`."""
    return claimed(folder / LOCK, str(folder)) if is_first_rank() else nullcontext()


def is_shared() -> bool:
    """Whether there are other ranks."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def total(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The sum over all ranks, the same on each."""
    values = values.detach().clone()
    if is_shared():
        torch.distributed.all_reduce(values)
    return values


def total_gradients(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """Sums of the ranks' gradients, in one message; `None` where no rank has any."""
    if not is_shared():
        return list(gradients)
    filled = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]
    known = filled[0].new_tensor([float(g is not None) for g in gradients])
    message = total(torch.cat([*(g.reshape(-1) for g in filled), known]))
    *parts, known = message.split([p.numel() for p in parameters] + [len(parameters)])
    shaped = zip(parts, parameters, known.tolist(), strict=True)
    # a rank that failed sends NaN, also for what it knows
    return [part.reshape(p.shape) if number != 0 else None for part, p, number in shaped]


def gathered(sentence: str) -> list[str]:
    """The sentences of all ranks that have one, on each of them."""
    if not is_shared():
        return [sentence] if sentence else []
    found: list[str] = [""] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, sentence)
    return [item for item in found if item]


def raise_too_large(sentence: str) -> None:
    """Raise on every rank, if the sentence of any says that a structure does not fit.

    Raises:
        TooLargeError: some rank has a sentence.
    """
    found = gathered(sentence)
    if found:
        raise TooLargeError(found[0])

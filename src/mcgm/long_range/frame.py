"""Frames fixed to a structure: axes that turn with it, so that what has a grid need not notice a rotation.

The centroid is the origin and the principal axes are the eigenvectors of the mean of x x^T over the atoms. A frame is
only as good as its structure is unsymmetric: where two eigenvalues are equal (rods apart, any symmetric or spherical
top: benzene, methane) the axes between them are anyone's, and near such a structure they turn at once as atoms move.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

WIDTH = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Gap between eigenvalues, relative to their sum, below which the axes between them no longer turn with the atoms."""

SWEEPS = {torch.float64: 5, torch.float32: 4}
"""Rounds of rotations that make a symmetric 3 x 3 matrix diagonal to working precision, whatever it is."""

PAIRS = ((0, 1), (0, 2), (1, 2))

Frame = Callable[[Float[Tensor, "structure size 3"], Bool[Tensor, "structure size"]], Float[Tensor, "structure 3 3"]]
"""From atoms about their centroid (zeros where a structure is smaller) to axes, one in each column."""


def laboratory_axes(
    arm: Float[Tensor, "structure size 3"], present: Bool[Tensor, "structure size"]
) -> Float[Tensor, "structure 3 3"]:
    """x, y and z: does not turn with the structure, and is smooth."""
    return torch.eye(3, dtype=arm.dtype, device=arm.device).expand(arm.shape[0], 3, 3)


def principal_axes(
    arm: Float[Tensor, "structure size 3"], present: Bool[Tensor, "structure size"]
) -> Float[Tensor, "structure 3 3"]:
    """Principal axes, the longest first, each towards the side with the larger third moment.

    So a mirror image has mirrored axes. Where a third moment vanishes the side is anyone's. Differentiable twice where
    no two eigenvalues are equal; finite everywhere.
    """
    count = present.sum(1)[:, None, None].to(arm.dtype)
    moments, axes = Eigenvectors.apply(arm.mT @ arm / count)
    with torch.no_grad():
        cubes = (arm @ axes).pow(3)
        third, size = cubes.sum(1), cubes.abs().sum(1)
        sign = torch.where(third < -(torch.finfo(arm.dtype).eps ** 0.5) * size, -1.0, 1.0).to(arm.dtype)
        # as eigenvalues that should be equal differ by rounding, they are ordered by the digits that count
        total = moments.sum(1, keepdim=True).clamp(min=torch.finfo(arm.dtype).tiny)
        digits = torch.round(moments / total * 1e5)
        order = torch.argsort(digits, dim=1, descending=True, stable=True)
    return torch.gather(axes * sign[:, None], 2, order[:, None].expand(-1, 3, -1))


class Eigenvectors(torch.autograd.Function):
    """Eigenvalues and eigenvectors of symmetric 3 x 3 matrices, without waiting for the device.

    dV = V (F o V^T dA V) with F_ij = 1 / (l_j - l_i), from first-order perturbation; here F_ij = g / (g² + w²), with w
    from `WIDTH`, which is finite where eigenvalues meet, and the same to rounding where they are apart.
    """

    @staticmethod
    def forward(
        ctx: Any, matrix: Float[Tensor, "structure 3 3"]
    ) -> tuple[Float[Tensor, "structure 3"], Float[Tensor, "structure 3 3"]]:
        """By Jacobi's rotations: a pair that is diagonal to rounding is left as it is."""
        values, vectors = jacobi(matrix)
        ctx.save_for_backward(values, vectors)
        return values, vectors

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, by_values: Float[Tensor, "structure 3"], by_vectors: Float[Tensor, "structure 3 3"]
    ) -> Float[Tensor, "structure 3 3"]:
        """Differentiable in turn, for `values` and `vectors` are outputs of this function."""
        values, vectors = ctx.saved_tensors
        gap = values[:, None, :] - values[:, :, None]
        width = WIDTH[values.dtype] * (values.sum(1)[:, None, None] + 1)  # a structure of one atom has no size
        same = torch.eye(3, dtype=torch.bool, device=gap.device)
        # a value has no gap to itself; as one of zero its second derivative would be 1 / w² minus as much
        factor = torch.where(same, 0.0, gap / (torch.where(same, 1.0, gap).square() + width.square()))
        inner = vectors.mT @ by_vectors * factor + torch.diag_embed(by_values)
        gradient = vectors @ inner @ vectors.mT
        return 0.5 * (gradient + gradient.mT)


def jacobi(
    matrix: Float[Tensor, "structure 3 3"],
) -> tuple[Float[Tensor, "structure 3"], Float[Tensor, "structure 3 3"]]:
    """Eigenvalues and eigenvectors (columns), unordered, by cyclic rotations of at most 45 degrees.

    Source: Golub and Van Loan, Matrix Computations, section 8.5.
    """
    unit = torch.eye(3, dtype=matrix.dtype, device=matrix.device)
    vectors = unit.expand_as(matrix)
    rounding = 8 * torch.finfo(matrix.dtype).eps * matrix.diagonal(dim1=1, dim2=2).sum(1)
    planes = [_plane_and_turn(unit[p], unit[q]) for p, q in PAIRS]
    for _ in range(SWEEPS[matrix.dtype]):
        for (p, q), (plane, turn) in zip(PAIRS, planes, strict=True):
            off = matrix[:, p, q]
            difference = matrix[:, q, q] - matrix[:, p, p]
            off = torch.where(off.abs() > rounding, off, 0.0)
            angle = 0.5 * torch.atan2(torch.where(difference < 0, -2 * off, 2 * off), difference.abs())
            cosine, sine = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
            rotation = unit + (cosine - 1) * plane + sine * turn
            matrix = rotation.mT @ matrix @ rotation
            vectors = vectors @ rotation
    return matrix.diagonal(dim1=1, dim2=2), vectors


def _plane_and_turn(p: Float[Tensor, "3"], q: Float[Tensor, "3"]) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "3 3"]]:
    """Of two axes: 1 at (p, p) and (q, q); and 1 at (p, q), -1 at (q, p)."""
    return torch.outer(p, p) + torch.outer(q, q), torch.outer(p, q) - torch.outer(q, p)


FRAMES: dict[str, Frame] = {"principal": principal_axes, "laboratory": laboratory_axes}
"""Frames by the name that specifications use."""

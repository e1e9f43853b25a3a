"""The LightningDataModule: batches by atom budget, for one rank of one epoch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightning.pytorch as lightning
import torch
from torch.utils.data import DataLoader

from mcgm.batch import Batch
from mcgm.data import Dataset
from mcgm.errors import ConfigError
from mcgm.training.batches import BatchSampler, Collate, EvaluationSampler
from mcgm.training.config import TrainingConfig
from mcgm.training.filling import Filling

LOOKED_AT = 32
"""Batches of the first epoch whose sizes tell those that later ones are filled up to."""


class StructureDataModule(lightning.LightningDataModule):
    """Training batches are drawn anew for every epoch, from seed and epoch number alone.

    Its state is how far the epoch had come: a resumed training goes on with the batch that was next.
    """

    def __init__(self, train: Dataset, val: Dataset, collate: Collate, config: TrainingConfig) -> None:
        super().__init__()
        self.train, self.val = train, val
        self.collate = collate
        self.config = config
        self.training_collate = replace(collate, filling=self._filling()) if config.cuda_graphs else collate
        self.done = (0, 0)

    def _filling(self) -> Filling:
        """Sizes that training batches are filled up to, from the first ones.

        Raises:
            ConfigError: there are periodic structures in all of them.
        """
        potential = self.collate.potential
        chosen = [[self.train[k] for k in batch] for batch in self.sampler(0).batches[:LOOKED_AT]]
        made = [Batch.from_structures(each, cutoff=potential.cutoff, dtype=torch.float64) for each in chosen]
        batches = [batch for batch in made if not batch.periodic]
        if not batches:
            raise ConfigError(
                "training.cuda_graphs: only batches without periodic structures are filled up and recorded; here there "
                f"are some in all of the first {len(made)} batches. Leave it out."
            )
        return Filling.of(batches, potential.specification.index_reach)

    def sampler(self, epoch: int, *, rank: int = 0, ranks: int = 1, start: int = 0) -> BatchSampler:
        """The training batches of an epoch, from `start` on."""
        config = self.config
        return BatchSampler(
            self.train.sizes,
            atoms=None if config.batch_structures is not None else config.batch_atoms,
            structures=config.batch_structures,
            seed=config.seed,
            epoch=epoch,
            rank=rank,
            ranks=ranks,
            start=start,
        )

    def batches_done(self, epoch: int) -> int:
        """How many batches of an epoch were done before this training was resumed."""
        return self.done[1] if epoch == self.done[0] else 0

    def state_dict(self) -> dict[str, Any]:
        """Called by Lightning when it saves: epoch, batches done, and what decides which batches those were."""
        trainer = self.trainer
        assert trainer is not None
        done = trainer.fit_loop.batch_idx + 1
        unfinished = done < trainer.num_training_batches
        return {"epoch": trainer.current_epoch, "batches": done, "unfinished": unfinished, "order": self._order()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called by Lightning when it resumes.

        Raises:
            ConfigError: within an epoch whose batches would now be other ones.
        """
        before, now = state_dict["order"], self._order()
        changed = [name for name in now if now[name] != before.get(name)]
        if changed and state_dict["unfinished"]:
            raise ConfigError(
                f"{changed[0]}: {before.get(changed[0])} when the training was interrupted within an epoch, now "
                f"{now[changed[0]]}. Resume with the same settings and data until the epoch ends."
            )
        self.done = (state_dict["epoch"], state_dict["batches"])

    def _order(self) -> dict[str, Any]:
        trainer, config = self.trainer, self.config
        assert trainer is not None
        return {
            "training.seed": config.seed,
            "training.batch_atoms": config.batch_atoms,
            "training.batch_structures": config.batch_structures,
            "processes": trainer.world_size,
            "training structures": len(self.train),
            "their atoms": int(self.train.sizes.sum()),
        }

    def epoch_dataloader(self) -> DataLoader:
        """All training batches of the present epoch, also when it was resumed in its middle."""
        return self._training(start=0)

    def train_dataloader(self) -> DataLoader:
        """Called by Lightning at the start of every epoch."""
        assert self.trainer is not None
        return self._training(start=self.batches_done(self.trainer.current_epoch))

    def _training(self, *, start: int) -> DataLoader:
        trainer = self.trainer
        assert trainer is not None
        sampler = self.sampler(trainer.current_epoch, rank=trainer.global_rank, ranks=trainer.world_size, start=start)
        return self._loader(self.train, sampler, self.training_collate)

    def val_dataloader(self) -> DataLoader:
        """Every structure once over all ranks."""
        trainer = self.trainer
        assert trainer is not None
        sampler = EvaluationSampler(self.val.sizes, rank=trainer.global_rank, ranks=trainer.world_size)
        return self._loader(self.val, sampler, self.collate)

    def _loader(self, dataset: Dataset, sampler: BatchSampler | EvaluationSampler, collate: Collate) -> DataLoader:
        return DataLoader(
            dataset,  # type: ignore[arg-type]
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.config.workers,
        )

"""The LightningDataModule: batches by atom budget, for one rank of one epoch."""

from __future__ import annotations

import lightning.pytorch as lightning
from torch.utils.data import DataLoader

from mcgm.data import Dataset
from mcgm.training.batches import BatchSampler, Collate, EvaluationSampler
from mcgm.training.config import TrainingConfig


class StructureDataModule(lightning.LightningDataModule):
    """Training batches are drawn anew for every epoch, from seed and epoch number alone."""

    def __init__(self, train: Dataset, val: Dataset, collate: Collate, config: TrainingConfig) -> None:
        super().__init__()
        self.train, self.val = train, val
        self.collate = collate
        self.config = config

    def sampler(self, epoch: int, *, rank: int = 0, ranks: int = 1) -> BatchSampler:
        """The training batches of an epoch."""
        config = self.config
        return BatchSampler(
            self.train.sizes,
            atoms=None if config.batch_structures is not None else config.batch_atoms,
            structures=config.batch_structures,
            seed=config.seed,
            epoch=epoch,
            rank=rank,
            ranks=ranks,
        )

    def train_dataloader(self) -> DataLoader:
        """Called by Lightning at the start of every epoch."""
        trainer = self.trainer
        assert trainer is not None
        sampler = self.sampler(trainer.current_epoch, rank=trainer.global_rank, ranks=trainer.world_size)
        return self._loader(self.train, sampler)

    def val_dataloader(self) -> DataLoader:
        """Every structure once over all ranks."""
        trainer = self.trainer
        assert trainer is not None
        sampler = EvaluationSampler(self.val.sizes, rank=trainer.global_rank, ranks=trainer.world_size)
        return self._loader(self.val, sampler)

    def _loader(self, dataset: Dataset, sampler: BatchSampler | EvaluationSampler) -> DataLoader:
        return DataLoader(
            dataset,  # type: ignore[arg-type]
            batch_sampler=sampler,
            collate_fn=self.collate,
            num_workers=self.config.workers,
        )

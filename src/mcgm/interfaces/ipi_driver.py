"""What i-PI loads by its path: `pes_path` of a `custom` potential."""

from mcgm.interfaces.ipi import MCGMDriver

__DRIVER_NAME__ = "mcgm"
__DRIVER_CLASS__ = "MCGMDriver"
__all__ = ["MCGMDriver"]

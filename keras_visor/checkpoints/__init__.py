"""Checkpoints of other libraries: reading and writing LLaVA-OneVision."""

from keras_visor.checkpoints.writer import export

__all__ = ["export"]

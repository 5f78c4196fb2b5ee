"""Where Keras computes, as PyTorch names it: the peers compute there too."""

import keras
import torch


def _device() -> torch.device:
    where = str(keras.ops.convert_to_tensor(0.0).device).lower()
    on_gpu = "cuda" in where or "gpu" in where
    return torch.device("cuda" if on_gpu else "cpu")


DEVICE = _device()

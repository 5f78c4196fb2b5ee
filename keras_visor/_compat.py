"""Everything that comes from `keras_hub.src`, which promises no stability.

KerasHub's version is pinned below 0.33 in pyproject.toml; only this file has
to be read again before the pin moves.
"""

# The layers of the vision encoder, to find them in `encoder.layers`.
from keras_hub.src.models.siglip.siglip_layers import SigLIPEncoderLayer
from keras_hub.src.models.siglip.siglip_layers import SigLIPVisionEmbedding

# Built-in preset names, for the message about an unknown one.
from keras_hub.src.utils.preset_utils import BUILTIN_PRESETS

# What a loader of a new format derives from.
from keras_hub.src.utils.preset_utils import PresetLoader

# One file of a preset, be it a built-in name, a handle or a directory.
from keras_hub.src.utils.preset_utils import check_file_exists
from keras_hub.src.utils.preset_utils import get_file

# KerasHub's own loader, for presets that `save_to_preset` wrote.
from keras_hub.src.utils.preset_utils import get_preset_loader

# Makes `visor_tiny_en` known to `from_preset`.
from keras_hub.src.utils.preset_utils import register_presets

# Whether preprocessing is being traced by tf.data.
from keras_hub.src.utils.tensor_utils import in_tf_function

__all__ = [
    "BUILTIN_PRESETS",
    "PresetLoader",
    "SigLIPEncoderLayer",
    "SigLIPVisionEmbedding",
    "check_file_exists",
    "get_file",
    "get_preset_loader",
    "in_tf_function",
    "register_presets",
]

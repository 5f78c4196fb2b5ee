"""The presets that come with the package."""

from pathlib import Path

from keras_visor._compat import register_presets
from keras_visor.models.visor_backbone import VisorBackbone

PRESETS_DIRECTORY = Path(__file__).parents[1] / "presets"

# KerasHub reads files from a `kaggle_handle`, which may be a local path.
register_presets(
    {
        "visor_tiny_en": {
            "metadata": {
                "description": (
                    "2.4 million parameters, 9 layers. Reads rendered "
                    "tables, forms, letters, charts, grids and scenes."
                ),
                "params": 2388532,
                "path": "visor",
            },
            "kaggle_handle": str(PRESETS_DIRECTORY / "visor_tiny_en"),
        },
    },
    VisorBackbone,
)

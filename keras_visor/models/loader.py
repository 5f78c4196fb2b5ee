"""Which loader reads a preset, and the one for LLaVA-OneVision checkpoints.

KerasHub's `from_preset` chooses a converter from a fixed list that has no
place for ours, so that VISOR's classes look here first.
"""

import contextlib
import difflib
import os

import keras_hub
from tokenizers import Tokenizer

from keras_visor._compat import BUILTIN_PRESETS
from keras_visor._compat import PresetLoader
from keras_visor._compat import get_preset_loader
from keras_visor.checkpoints.json_files import read_json
from keras_visor.checkpoints.llava_onevision import LAYOUT_KEYS
from keras_visor.checkpoints.llava_onevision import backbone_kwargs
from keras_visor.checkpoints.llava_onevision import image_converter_kwargs
from keras_visor.checkpoints.llava_onevision import image_token_id
from keras_visor.checkpoints.llava_onevision import starts_new_policy
from keras_visor.checkpoints.llava_onevision import vision_encoder_kwargs
from keras_visor.checkpoints.qwen2_tokenizer import tokenizer_definition
from keras_visor.checkpoints.reader import CheckpointReader
from keras_visor.checkpoints.reader import load_weights as read_weights
from keras_visor.layers.placeholders import placeholders


def get_loader(preset: str | os.PathLike) -> PresetLoader:
    """The loader of a preset.

    Args:
        preset: str or path. A built-in name, a handle (`hf://org/name`,
            `kaggle://...`) or a directory.

    Returns:
        `VisorTransformersPresetLoader` for a LLaVA-OneVision or VISOR
        checkpoint, KerasHub's own loader for a native preset.

    Raises:
        ValueError: An unknown name, a directory that does not exist or has no
            config.json, or a config.json that is damaged or of another model.
    """
    preset = os.fspath(preset)
    _check_exists(preset)
    config = read_json(preset, "config.json")
    if config is None and "://" in preset:
        raise ValueError(
            f"The `config.json` of `{preset}` could not be fetched: there is "
            "no connection, no such repository, no access to it, or no such "
            "file in it."
        )
    if config is None:
        raise ValueError(f"The preset `{preset}` has no `config.json`.")
    if "registered_name" in config:
        return get_preset_loader(preset)
    if config.get("model_type") == "llava_onevision":
        return VisorTransformersPresetLoader(preset, config)
    raise ValueError(
        f"The `config.json` of `{preset}` must be a Keras preset's, or have "
        "`model_type` 'llava_onevision'. Received: model_type="
        f"{config.get('model_type')!r}"
    )


class VisorPresetMixin:
    """`from_preset` for our classes, ahead of KerasHub's.

    Stands first among the bases: `class VisorBackbone(VisorPresetMixin,
    Backbone)`.
    """

    @classmethod
    def from_preset(cls, preset: str | os.PathLike, *args, **kwargs):
        """Load from a built-in name, a handle or a directory.

        Args:
            preset: str or path. A built-in name such as `"visor_tiny_en"`,
                `"hf://org/name"`, `"kaggle://..."`, or a directory: a native
                preset, a LLaVA-OneVision checkpoint or a VISOR checkpoint.
            *args: Of KerasHub's `from_preset`: `load_weights` for a backbone
                or a task. Defaults to `True`.
            **kwargs: `dtype`, and the layout that turns a LLaVA-OneVision
                checkpoint into a VISOR, see `keras_visor.uniform_layout`;
                others go to the constructor.
        """
        loader = get_loader(preset)
        if isinstance(loader, VisorTransformersPresetLoader):
            return loader.load(cls, *args, **kwargs)
        load_weights = args[0] if args else kwargs.get("load_weights", True)
        # A subclass may add weights that no preset has.
        ours = cls.__module__.startswith("keras_visor.")
        with _initial_values(load_weights and ours):
            return super().from_preset(os.fspath(preset), *args, **kwargs)


class VisorTransformersPresetLoader(PresetLoader):
    """Loads LLaVA-OneVision and VISOR checkpoints."""

    def load(self, cls: type, *args, **kwargs):
        """An instance of any of our classes, as `cls.from_preset` gives it."""
        for base, load in (
            (keras_hub.models.Task, self.load_task),
            (keras_hub.models.Backbone, self.load_backbone),
            (keras_hub.tokenizers.Tokenizer, self.load_tokenizer),
            (keras_hub.layers.ImageConverter, self.load_image_converter),
        ):
            if issubclass(cls, base):
                return load(cls, *args, **kwargs)
        return self.load_preprocessor(cls, *args, **kwargs)

    def get_backbone_kwargs(self, **kwargs):
        to_backbone = {
            key: kwargs.pop(key)
            for key in ("dtype", *LAYOUT_KEYS)
            if key in kwargs
        }
        return to_backbone, kwargs

    def load_task(
        self, cls, load_weights=True, load_task_weights=True, **kwargs
    ):
        return super().load_task(cls, load_weights, load_task_weights, **kwargs)

    def load_backbone(self, cls, load_weights=True, dtype=None, **kwargs):
        layout = {key: kwargs.pop(key) for key in LAYOUT_KEYS if key in kwargs}
        arguments = backbone_kwargs(self.config, **layout)
        encoder_arguments = vision_encoder_kwargs(self.config)
        if load_weights:
            reader = CheckpointReader(self.preset)
            arguments["tie_word_embeddings"] = reader.is_tied(
                arguments["tie_word_embeddings"]
            )
        with _initial_values(load_weights):
            backbone = cls(
                vision_encoder=keras_hub.models.SigLIPVisionEncoder(
                    **encoder_arguments,
                    data_format="channels_last",
                    dtype=dtype,
                    # Without one its layers change names with a reload.
                    name="vision_encoder",
                ),
                **arguments,
                dtype=dtype,
                **kwargs,
            )
        if load_weights:
            new_policy = starts_new_policy(self.config, **layout)
            read_weights(
                backbone,
                reader,
                new_cross_attention="visor_config" not in self.config,
                new_policy=new_policy,
            )
            if new_policy and backbone.policy is not None:
                _draw_policy(backbone)
        return backbone

    def load_preprocessor(self, cls, config_file=None, **kwargs):
        budgets = backbone_kwargs(self.config)["budgets"]
        kwargs = {"num_budgets": len(budgets), **kwargs}
        return super().load_preprocessor(cls, **kwargs)

    def load_tokenizer(self, cls, config_file=None, **kwargs):
        definition = tokenizer_definition(self.preset)
        token_id = Tokenizer.from_str(definition).token_to_id("<image>")
        if token_id != image_token_id(self.config):
            raise ValueError(
                f"The token `<image>` of `{self.preset}` must have the same id "
                "in the tokenizer and in config.json. Received: "
                f"{token_id} and {image_token_id(self.config)}"
            )
        return cls(definition, **kwargs)

    def load_image_converter(self, cls, **kwargs):
        arguments = image_converter_kwargs(
            self.config, _image_processor(self.preset)
        )
        return cls(**{**arguments, **kwargs})


def _initial_values(load_weights):
    """Weights that are read anyway aren't drawn first."""
    return placeholders() if load_weights else contextlib.nullcontext()


def _draw_policy(backbone):
    """Give the policy the random start that it was built without."""
    policy = backbone.policy
    drawn = policy.from_config(policy.get_config())
    drawn.build((None, backbone.hidden_dim))
    policy.set_weights(drawn.get_weights())


def _image_processor(preset):
    """The image processor's file; `transformers` 5 nests it in another."""
    nested = read_json(preset, "processor_config.json") or {}
    config = nested.get("image_processor") or read_json(
        preset, "preprocessor_config.json"
    )
    if config is None:
        raise FileNotFoundError(
            f"`{preset}` must have a preprocessor_config.json, or a "
            "processor_config.json with an `image_processor`: pictures are "
            "prepared by it"
        )
    return config


def _check_exists(preset):
    if preset in BUILTIN_PRESETS or "://" in preset:
        return
    if os.path.isdir(preset):
        return
    ours = [name for name in BUILTIN_PRESETS if name.startswith("visor_")]
    near = difflib.get_close_matches(preset, ours, n=3, cutoff=0.4)
    raise ValueError(
        f"`preset` must be a built-in name, one of {ours}; a handle such as "
        "'hf://org/name'; or a directory that exists. Received: "
        f"{preset!r}" + (f". Did you mean {near}?" if near else "")
    )

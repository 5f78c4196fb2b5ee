"""From prompts, images and responses to the backbone's inputs."""

from dataclasses import dataclass
from typing import Any

import keras
import keras_hub
import numpy as np

from keras_visor._compat import in_tf_function
from keras_visor.models.encoded_images import EncodedImages
from keras_visor.models.encoded_images import image_list
from keras_visor.models.loader import VisorPresetMixin
from keras_visor.models.visor_backbone import VisorBackbone
from keras_visor.models.visor_image_converter import VisorImageConverter
from keras_visor.models.visor_tokenizer import VisorTokenizer
from keras_visor.preprocessing.buckets import bucket_length
from keras_visor.preprocessing.chat_template import IMAGE_MARK
from keras_visor.preprocessing.chat_template import is_written_out
from keras_visor.preprocessing.chat_template import wrap_question
from keras_visor.preprocessing.sequence import JointSequence
from keras_visor.preprocessing.sequence import joint_positions

# The backbone's inputs with the rank and dtype they have in a batch, in the
# order in which they cross the border of tf.data.
INPUTS = {
    "token_ids": (2, "int32"),
    "padding_mask": (2, "bool"),
    "text_positions": (2, "int32"),
    "images": (5, "float32"),
    "vision_indices": (3, "int32"),
    "vision_weights": (3, "float32"),
    "vision_positions": (2, "int32"),
    "vision_mask": (2, "bool"),
    "vision_image_ids": (2, "int32"),
    "budget": (1, "int32"),
}


@dataclass(frozen=True)
class _Sample:
    """One prompt, converted but not yet padded to its batch."""

    sequence: JointSequence
    converted: dict | None  # What the image converter gave.
    response_length: int


@keras.saving.register_keras_serializable("keras_visor")
class VisorCausalLMPreprocessor(
    VisorPresetMixin,
    keras_hub.models.CausalLMPreprocessor,
):
    """Turns prompts and images into what `VisorBackbone` takes.

    A prompt that has `<image>` marks or the template's own turn tokens
    (`<|im_start|>`) is taken as it stands; any other is a question and is
    wrapped in LLaVA-OneVision's chat template, its images first. Prompts may
    be whole conversations of several turns, with images in each. Lengths
    count text tokens, the prompt's included, images not. Nothing is cut: a
    prompt that is too long is an error.

    The work is plain Python (Pillow, `tokenizers`); inside tf.data it runs in
    a `tf.numpy_function`, so ids and pixels are the same everywhere.

    Args:
        tokenizer: `VisorTokenizer`.
        image_converter: `VisorImageConverter`.
        sequence_length: int. Text tokens of a training sample, and the most
            that `generate` works with by default. Defaults to `1024`.
        num_budgets: int. How many budgets the backbone has; `VisorCausalLM`
            sets it. Defaults to `1`.
        **kwargs: Other arguments of `keras_hub.models.CausalLMPreprocessor`.

    Call arguments:
        x: A dict of `prompts` (strings), `responses` (strings), optionally
            `images` (per prompt `None`, one image or a list) and optionally
            `budget` (an int a sample; the full one by default). Lists, NumPy
            arrays and, inside tf.data, tensors; batched, or one sample.
        num_budgets: int. For this call. Defaults to `None`: the attribute.
        prompt_lengths: bool. Whether x gets `prompt_lengths`, by which some
            reducers go. Defaults to `None`: as the model wants that was told
            last.

    Returns:
        `(x, y, sample_weight)`: the backbone's inputs, the next tokens and
        1.0 where the next token belongs to the response or ends it.

    Example:
    ```python
    preprocessor = keras_visor.VisorCausalLMPreprocessor.from_preset(
        "visor_tiny_en"
    )
    x, y, sample_weight = preprocessor(
        {
            "prompts": ["what colour is the square?"],
            "responses": ["red"],
            "images": [np.zeros((96, 96, 3), "uint8")],
        }
    )
    ```
    """

    backbone_cls = VisorBackbone
    tokenizer_cls = VisorTokenizer
    image_converter_cls = VisorImageConverter

    def __init__(
        self,
        tokenizer: VisorTokenizer,
        image_converter: VisorImageConverter,
        sequence_length: int = 1024,
        num_budgets: int = 1,
        **kwargs,
    ):
        super().__init__(
            tokenizer=tokenizer, sequence_length=sequence_length, **kwargs
        )
        self.image_converter = image_converter
        self.num_budgets = num_budgets
        # Whether training samples say where the prompt ends, for a reducer
        # within the decoder; `VisorCausalLM` sets it.
        self.gives_prompt_lengths = False

    def build(self, input_shape=None):
        # The base class builds a packer, which this one does not use.
        self.built = True

    # === Training ===

    def call(
        self,
        x,
        y=None,
        sample_weight=None,
        sequence_length=None,
        num_budgets=None,
        prompt_lengths=None,
    ):
        if y is not None or sample_weight is not None:
            raise ValueError(
                "Labels come from `responses`: pass `x` alone. Received: "
                f"y={y}, sample_weight={sample_weight}"
            )
        # Once: another model may tell this layer something else meanwhile.
        options = {
            "sequence_length": sequence_length or self.sequence_length,
            "num_budgets": num_budgets or self.num_budgets,
            "prompt_lengths": self.gives_prompt_lengths
            if prompt_lengths is None
            else prompt_lengths,
        }
        if in_tf_function():
            return self._call_in_tf_data(x, **options)
        return self._call_python(x, **options)

    def _call_python(self, x, sequence_length, num_budgets, prompt_lengths):
        columns, unbatched = _columns(x)
        if "responses" not in columns:
            raise ValueError(
                "Training needs `responses` beside `prompts`. Received: "
                f"{sorted(columns)}"
            )
        if any(isinstance(e, EncodedImages) for e in columns.get("images", ())):
            raise ValueError(
                "Training encodes images itself: `images` must hold images. "
                "Received: an `EncodedImages`"
            )
        budget = _budgets(columns, num_budgets)
        samples = self._convert(columns)
        for index, sample in enumerate(samples):
            # The last token is only ever predicted.
            length = len(sample.sequence.token_ids) - 1
            self._check_length(index, length, sequence_length)
        batch = self._pad(samples, sequence_length + 1)
        batch["budget"] = budget
        token_ids, mask = batch["token_ids"], batch["padding_mask"]
        x = {
            **batch,
            "token_ids": token_ids[:, :-1],
            "padding_mask": mask[:, :-1].copy(),
            "text_positions": batch["text_positions"][:, :-1],
        }
        if prompt_lengths:
            lengths = [
                len(sample.sequence.token_ids) - sample.response_length
                for sample in samples
            ]
            x["prompt_lengths"] = np.array(lengths, "int32")
        sample_weight = np.zeros(token_ids[:, 1:].shape, "float32")
        for row, sample in enumerate(samples):
            length = len(sample.sequence.token_ids)
            # As an input, the last token would only lengthen the sequence.
            x["padding_mask"][row, length - 1 :] = False
            sample_weight[
                row, length - 1 - sample.response_length : length - 1
            ] = 1.0
        outputs = x, token_ids[:, 1:], sample_weight
        if unbatched:
            outputs = keras.tree.map_structure(lambda a: a[0], outputs)
        return outputs

    def _call_in_tf_data(self, x, sequence_length, num_budgets, prompt_lengths):
        import tensorflow as tf

        names = dict(INPUTS)
        if prompt_lengths:
            names["prompt_lengths"] = (1, "int32")
        unbatched = tf.convert_to_tensor(x["prompts"]).shape.rank == 0
        x = dict(x)
        if isinstance(x.get("images"), tf.RaggedTensor):
            # Images of many sizes, as `ragged_batch` gives them.
            if x["images"].shape.rank != 4:
                raise ValueError(
                    "`images` of many sizes must be one a prompt, (batch, "
                    "height, width, 3). Received a ragged tensor of shape "
                    f"{x['images'].shape}"
                )
            heights = x["images"].row_lengths(axis=1)
            widths = tf.reduce_max(x["images"].row_lengths(axis=2), axis=1)
            x["sizes"] = tf.stack([heights, widths], axis=1)
            x["images"] = x["images"].to_tensor()

        def run(*values):
            columns = dict(zip(x, values, strict=True))
            if "sizes" in columns:
                columns["images"] = [
                    image[:height, :width]
                    for image, (height, width) in zip(
                        columns["images"], columns.pop("sizes"), strict=True
                    )
                ]
            inputs, y, weight = self._call_python(
                columns, sequence_length, num_budgets, prompt_lengths
            )
            return *(inputs[name] for name in names), y, weight

        specs = {**names, "y": (2, "int32"), "weight": (2, "float32")}
        dtypes = [dtype for _, dtype in specs.values()]
        values = tf.numpy_function(run, list(x.values()), dtypes)
        # What the graph cannot see of the shapes, but the layers have to.
        text = (sequence_length,)
        tile_size = self.image_converter.tile_size
        known = {
            "images": (tile_size, tile_size, 3),
            "vision_indices": (4,),
            "vision_weights": (4,),
            **dict.fromkeys(("token_ids", "padding_mask"), text),
            **dict.fromkeys(("text_positions", "y", "weight"), text),
        }
        for value, (name, (rank, _)) in zip(values, specs.items(), strict=True):
            ends = known.get(name, ())
            value.set_shape([None] * (rank - unbatched - len(ends)) + [*ends])
        *inputs, y, weight = values
        return dict(zip(names, inputs, strict=True)), y, weight

    # === Generation ===

    def generate_preprocess(self, x, sequence_length=None) -> dict:
        """Convert prompts and images to the backbone's inputs.

        Args:
            x: string, list of strings, or a dict of `prompts` and, if wanted,
                `images` and `budget` as in a call of the layer. Instead of
                images an entry may be an `EncodedImages`; then `images`,
                `vision_indices` and `vision_weights` are left out.
            sequence_length: int. Length to pad the text to. Defaults to
                `None`: the bucket that fits the longest prompt, up to
                `self.sequence_length`.

        Returns:
            A dict, see `VisorBackbone`; `budget` is the full one by default.
        """
        if sequence_length is None:
            return self.generation_batch(x, self.sequence_length)
        return self.generation_batch(x, sequence_length, sequence_length)

    def generation_batch(
        self,
        x,
        limit: int,
        text_length: int | None = None,
        num_budgets: int | None = None,
    ) -> dict:
        """What `generate_preprocess` does, with limit and length apart.

        Args:
            x: See `generate_preprocess`.
            limit: int. The most text tokens that a prompt may have.
            text_length: int. Length to pad the text to. Defaults to `None`:
                the bucket that fits the longest prompt, up to `limit`.
            num_budgets: int. Defaults to `None`: `self.num_budgets`.
        """
        columns, _ = _columns(x)
        columns.pop("responses", None)
        budget = _budgets(columns, num_budgets or self.num_budgets)
        samples = self._convert(columns)
        lengths = [len(sample.sequence.token_ids) for sample in samples]
        for index, length in enumerate(lengths):
            self._check_length(index, length, limit)
        batch = self._pad(
            samples, text_length or min(bucket_length(max(lengths)), limit)
        )
        batch["budget"] = budget
        return batch

    def generate_postprocess(self, x) -> list[str]:
        """Detokenize `token_ids` where `padding_mask` is True."""
        token_ids = keras.ops.convert_to_numpy(x["token_ids"])
        mask = keras.ops.convert_to_numpy(x["padding_mask"]).astype(bool)
        return [
            self.tokenizer.detokenize(ids[kept].tolist())
            for ids, kept in zip(token_ids, mask, strict=True)
        ]

    # === Both ===

    def _convert(self, columns: dict) -> list[_Sample]:
        """Check everything that is cheap to check, then convert."""
        prompts = columns["prompts"]
        nothing = [None] * len(prompts)
        responses = columns.get("responses", nothing)
        images = [image_list(e) for e in columns.get("images", nothing)]
        for name, column in (("images", images), ("responses", responses)):
            if len(column) != len(prompts):
                raise ValueError(
                    f"`{name}` must have one entry for each of the "
                    f"{len(prompts)} prompts. Received: {len(column)}"
                )
        if not prompts:
            raise ValueError("`prompts` must hold a prompt. Received: []")
        texts = []
        for index, (prompt, entry) in enumerate(
            zip(prompts, images, strict=True)
        ):
            if not prompt.strip():
                raise ValueError(
                    f"`prompts` must not be empty. Received: {prompt!r} at "
                    f"index {index}"
                )
            count = (
                len(entry.image_lengths)
                if isinstance(entry, EncodedImages)
                else len(entry)
            )
            if not is_written_out(prompt):
                prompt = wrap_question(prompt, count)
            marks = prompt.count(IMAGE_MARK)
            if marks != count:
                raise ValueError(
                    f"The prompt at index {index} has {marks} {IMAGE_MARK} "
                    f"marks, but `images` has {count} images for it."
                )
            texts.append(prompt)
        return [
            self._convert_sample(*fields)
            for fields in zip(texts, images, responses, strict=True)
        ]

    def _convert_sample(self, text, images, response) -> _Sample:
        runs = self.tokenizer(text.split(IMAGE_MARK))
        response_ids = []
        if response is not None:
            response_ids = self.tokenizer(response)
            response_ids = [*response_ids, self.tokenizer.end_token_id]
        runs[-1] = [*runs[-1], *response_ids]
        if isinstance(images, EncodedImages):
            lengths, converted = images.image_lengths, None
        else:
            converted = self.image_converter(images)
            lengths = converted["image_lengths"]
        return _Sample(
            joint_positions(runs, lengths), converted, len(response_ids)
        )

    def _pad(self, samples: list[_Sample], text_length: int) -> dict:
        """Pad on the right: text to `text_length`, vision to its bucket."""
        sequences = [sample.sequence for sample in samples]
        vision_length = bucket_length(
            max(len(sequence.vision_positions) for sequence in sequences)
        )

        def padded(arrays, length, fill=0):
            shape = (len(arrays), length, *arrays[0].shape[1:])
            batch = np.full(shape, fill, arrays[0].dtype)
            for row, array in enumerate(arrays):
                batch[row, : len(array)] = array
            return batch

        def mask(name, length):
            lengths = np.array([len(getattr(s, name)) for s in sequences])
            return np.arange(length) < lengths[:, None]

        batch = {
            "token_ids": padded(
                [s.token_ids for s in sequences],
                text_length,
                self.tokenizer.pad_token_id,
            ),
            "padding_mask": mask("token_ids", text_length),
            "text_positions": padded(
                [s.text_positions for s in sequences], text_length
            ),
            "vision_positions": padded(
                [s.vision_positions for s in sequences], vision_length
            ),
            "vision_mask": mask("vision_positions", vision_length),
            "vision_image_ids": padded(
                [s.vision_image_ids for s in sequences], vision_length, -1
            ),
        }
        converted = [sample.converted for sample in samples]
        if None not in converted:
            tiles = bucket_length(
                max(len(c["images"]) for c in converted), minimum=1
            )
            for name, length in (
                ("images", tiles),
                ("vision_indices", vision_length),
                ("vision_weights", vision_length),
            ):
                batch[name] = padded([c[name] for c in converted], length)
        return batch

    def _check_length(self, index, length, limit):
        if length > limit:
            raise ValueError(
                f"The sample at index {index} has {length} text tokens, more "
                f"than sequence_length={limit}. Shorten it, or raise "
                "`sequence_length` (`max_length` in `generate`)."
            )

    def get_config(self):
        config = super().get_config()
        # What the base class adds around a text is in the chat template.
        del config["add_start_token"], config["add_end_token"]
        config["num_budgets"] = self.num_budgets
        return config


def _budgets(columns: dict, num_budgets: int) -> np.ndarray:
    """An index for each prompt, the full one where nothing is said."""
    count = len(columns["prompts"])
    budget = np.asarray(columns.get("budget", num_budgets - 1))
    if (
        budget.shape not in ((), (count,))
        or not np.issubdtype(budget.dtype, np.integer)
        or not np.all((0 <= budget) & (budget < num_budgets))
    ):
        raise ValueError(
            f"`budget` must hold an index from 0 to {num_budgets - 1} "
            f"for each of the {count} prompts. Received: {budget.tolist()}"
        )
    return np.broadcast_to(budget, (count,)).astype("int32")


def _columns(x: Any) -> tuple[dict, bool]:
    """The inputs as a dict of lists, and whether they were one sample."""
    if not isinstance(x, dict):
        x = {"prompts": x}
    known = ("prompts", "images", "responses", "budget")
    if "prompts" not in x or not set(x) <= set(known):
        raise ValueError(
            "Inputs must be a dict with the key `prompts` and, if wanted, "
            f"{known[1:]}. Received: {sorted(map(str, x))}"
        )
    columns = {k: v for k, v in x.items() if v is not None}
    prompts = columns["prompts"]
    unbatched = isinstance(prompts, (str, bytes)) or np.ndim(prompts) == 0
    if unbatched:
        columns = {k: [v] for k, v in columns.items()}
    for name in ("prompts", "responses"):
        if name in columns:
            columns[name] = [_text(name, t) for t in columns[name]]
    if "images" in columns:
        images = columns["images"]
        if isinstance(images, EncodedImages):
            images = [images]
        elif hasattr(images, "__array__"):
            images = np.asarray(images)
        elif not isinstance(images, (list, tuple)):
            raise ValueError(
                "`images` must have one entry for each prompt: `None`, an "
                f"image or a list of images. Received: {type(images)}"
            )
        if len(images) == 1 and isinstance(images[0], EncodedImages):
            # One encoding for all the questions.
            images = [images[0]] * len(columns["prompts"])
        columns["images"] = list(images)
    return columns, unbatched


def _text(name: str, value: Any) -> str:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if not isinstance(value, str):
        raise ValueError(
            f"`{name}` must hold strings. Received: {value!r} of type "
            f"{type(value)}"
        )
    return str(value)

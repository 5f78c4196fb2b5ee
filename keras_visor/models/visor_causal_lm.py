"""The VISOR task: answers questions about pictures, and learns to."""

import contextlib
import functools
import numbers
import operator
import warnings
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_visor.generation.decoding import writes_token_by_token
from keras_visor.generation.generator import Generator
from keras_visor.models.encoded_images import EncodedImages
from keras_visor.models.encoded_images import image_list
from keras_visor.models.encoded_images import stack_sources
from keras_visor.models.loader import VisorPresetMixin
from keras_visor.models.sample_batches import SampleBatches
from keras_visor.models.sample_batches import for_training
from keras_visor.models.sample_batches import is_grain
from keras_visor.models.visor_backbone import VisorBackbone
from keras_visor.models.visor_causal_lm_preprocessor import (
    VisorCausalLMPreprocessor,
)
from keras_visor.preprocessing.buckets import bucket_length
from keras_visor.preprocessing.buckets import chunks
from keras_visor.preprocessing.chat_template import IMAGE_MARK
from keras_visor.reduction.reducer import Reducer


@keras.saving.register_keras_serializable("keras_visor")
class VisorCausalLM(VisorPresetMixin, keras_hub.models.CausalLM):
    """A vision-language model that looks at the image as much as it needs.

    It keeps every visual token, but only a few decoder layers look at them;
    a *budget*, chosen per sample by a small policy or by the caller, says how
    many of the self-attention layers run. One set of weights serves every
    budget. Follows VISOR (arXiv 2603.23495).

    Args:
        backbone: `VisorBackbone`.
        preprocessor: `VisorCausalLMPreprocessor`, or `None` to work on the
            backbone's inputs. Defaults to `None`.
        reducer: `keras_visor.reduction.Reducer`, leaves visual tokens out
            wherever the model runs: in a call, `fit`, `evaluate`, `generate`
            and `route`. An attribute that can be set at any time; a preset
            keeps it. Defaults to `None`: every visual token stays.
        **kwargs: Other arguments of `keras_hub.models.CausalLM`.

    Examples:

    Ask.
    ```python
    picture = keras_visor.datasets.RenderedPictures("test", 1).example(0)
    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    lm.generate(
        {"prompts": picture["questions"][:1], "images": [picture["image"]]},
        max_length=64,
    )
    ```

    Ask many questions of one picture, encoded once, at the least cost.
    ```python
    lm.generate(
        {
            "prompts": picture["questions"],
            "images": lm.encode(picture["image"]),
        },
        max_length=64,
        budget="minimal",
    )
    ```

    Fine-tune. The loss is on the responses alone.
    ```python
    lm.backbone.enable_lora(rank=4)
    lm.fit(
        {
            "prompts": picture["questions"],
            "responses": picture["answers"],
            "images": [picture["image"]] * len(picture["questions"]),
        },
        batch_size=2,
    )
    ```

    A LLaVA-OneVision checkpoint, as it is and made a fresh VISOR.
    ```python
    name = "hf://llava-hf/llava-onevision-qwen2-0.5b-ov-hf"
    dense = keras_visor.VisorCausalLM.from_preset(name)
    lm = keras_visor.VisorCausalLM.from_preset(
        name, **keras_visor.uniform_layout(24)
    )
    ```
    """

    backbone_cls = VisorBackbone
    preprocessor_cls = VisorCausalLMPreprocessor

    def __init__(
        self,
        backbone: VisorBackbone,
        preprocessor: VisorCausalLMPreprocessor | None = None,
        reducer: Reducer | None = None,
        **kwargs,
    ):
        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor

        # === Functional Model ===
        inputs = backbone.input
        outputs = backbone.token_embedding(backbone(inputs), reverse=True)
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self._said_full_for_auto = False
        self.reducer = reducer

    @keras_hub.models.CausalLM.preprocessor.setter
    def preprocessor(self, preprocessor):
        if preprocessor is not None:
            _check_fits(preprocessor, self.backbone)
        self._preprocessor = preprocessor
        self._tell_preprocessor()

    @property
    def reducer(self) -> Reducer | None:
        """What leaves visual tokens out, `None` if nothing does."""
        return self._reducer

    @reducer.setter
    def reducer(self, reducer: Reducer | None):
        self.backbone.check_reducer(reducer)
        self._reducer = reducer
        is_training = self.train_function is not None
        # Of equal bound methods JAX takes one's program for the other's.
        for name in ("train_step", "test_step", "predict_step"):
            step = functools.partial(getattr(type(self), name), self)
            setattr(self, name, step)
        # Programs that were compiled for another one.
        self.train_function = None
        self.test_function = None
        self.predict_function = None
        if is_training:  # `fit`, which a callback may be part of, made it once.
            self.make_train_function()
        self._tell_preprocessor()

    def _tell_preprocessor(self):
        """What this model wants of it, to be called by itself too.

        Models may share a preprocessor: it follows the one that told it last.
        """
        if self.preprocessor is not None:
            wanted = self._preprocessing()
            self.preprocessor.num_budgets = wanted["num_budgets"]
            self.preprocessor.gives_prompt_lengths = wanted["prompt_lengths"]

    def _preprocessing(self):
        """How many budgets there are, and whether to say where a prompt ends.

        Some reducers go by that.
        """
        reducer = getattr(self, "_reducer", None)
        return {
            "num_budgets": len(self.backbone.budgets),
            "prompt_lengths": bool(
                reducer and reducer.rates_after(self.backbone.num_layers)
            ),
        }

    def call(self, inputs, training=None, mask=None):
        if self.reducer is None:
            return super().call(inputs, training=training, mask=mask)
        hidden_states = self.backbone.hidden_states(inputs, self.reducer)
        return self.backbone.token_embedding(hidden_states, reverse=True)

    def get_config(self):
        return {
            **super().get_config(),
            "reducer": keras.saving.serialize_keras_object(self.reducer),
        }

    @classmethod
    def from_config(cls, config):
        reducer = config.get("reducer")
        if isinstance(reducer, dict):
            reducer = keras.saving.deserialize_keras_object(reducer)
        return super().from_config({**config, "reducer": reducer})

    def compile(
        self,
        optimizer="auto",
        loss="auto",
        *,
        weighted_metrics="auto",
        sampler="greedy",
        **kwargs,
    ):
        """See `keras_hub.models.CausalLM.compile`; samples greedily."""
        if getattr(sampler, "return_all_beams", False):
            raise ValueError(
                "`generate` gives one text a prompt. Received a `sampler` "
                "with return_all_beams=True"
            )
        super().compile(
            optimizer=optimizer,
            loss=loss,
            weighted_metrics=weighted_metrics,
            sampler=sampler,
            **kwargs,
        )

    # === Generation ===

    def make_generate_function(self) -> Generator:
        """The stages of generation, each compiled once for its shapes."""
        if self.generate_function is None:
            self.generate_function = Generator(self)
        return self.generate_function

    def generate(
        self,
        inputs,
        max_length: int | None = None,
        stop_token_ids="auto",
        strip_prompt: bool = False,
        budget: str | int | Sequence[int] = "auto",
        return_report: bool = False,
        reducer: str | Reducer | None = "auto",
    ):
        """Generate text from prompts and images.

        Args:
            inputs: string, list of strings, a dict of `prompts` (strings) and
                `images` (per prompt `None`, one image, a list of images or an
                `EncodedImages`; see `VisorImageConverter` for what an image
                can be), or a `tf.data.Dataset` of such batches. With the
                preprocessor detached, the backbone's inputs, whose `budget`
                gives way to the argument.
            max_length: int. Text tokens of prompt and answer together.
                Defaults to `None`: the preprocessor's `sequence_length`.
                Ignored when the preprocessor is detached: then the width of
                `token_ids` counts.
            stop_token_ids: `None`, "auto" or a sequence of ids that end an
                answer. Defaults to "auto": `<|im_end|>` and `<|endoftext|>`.
            strip_prompt: bool. Return the answer without the prompt. Defaults
                to `False`.
            budget: "auto" (the policy chooses, per sample), "full",
                "minimal", an index into `backbone.budgets`, or one index a
                sample. A model without a policy takes "auto" as "full".
                Defaults to "auto".
            return_report: bool. Return `(outputs, report)`, where `report`
                has, as an int array a sample, `budget` (the index that ran),
                `text_tokens` and `vision_tokens` of the prompt, before any
                reduction, and `answer_tokens`. Defaults to `False`.
            reducer: `keras_visor.reduction.Reducer` that leaves visual tokens
                out in this call, or `None` to keep all. Defaults to "auto":
                the model's own, `lm.reducer`.

        Returns:
            A list of strings without special tokens, or one string if
            `inputs` was one prompt. With the preprocessor detached, a dict
            of `token_ids` and `padding_mask`, padded on the right.
        """
        if hasattr(inputs, "as_numpy_iterator"):  # A `tf.data.Dataset`.
            batches = list(inputs.as_numpy_iterator())
        else:
            batches = [inputs]
        prompts = inputs.get("prompts") if isinstance(inputs, dict) else inputs
        scalar = isinstance(prompts, str)
        parts = []
        for batch in batches:
            part = self._generate_batch(
                batch, max_length, stop_token_ids, strip_prompt, budget, reducer
            )
            parts.append(part)
        if not parts:
            raise ValueError("`inputs` must hold a batch. Received: none")
        outputs, reports = zip(*parts, strict=True)
        if isinstance(outputs[0], dict):
            outputs = {
                name: np.concatenate([output[name] for output in outputs])
                for name in outputs[0]
            }
        else:
            outputs = [text for output in outputs for text in output]
            outputs = outputs[0] if scalar else outputs
        if not return_report:
            return outputs
        report = {
            name: np.concatenate([report[name] for report in reports])
            for name in reports[0]
        }
        return outputs, report

    def stream(
        self,
        inputs,
        max_length: int | None = None,
        stop_token_ids="auto",
        budget: str | int | Sequence[int] = "auto",
        reducer: str | Reducer | None = "auto",
    ) -> Iterator[str] | Iterator[list[str]]:
        """Generate text and hand it out as it is written.

        The pieces together are what `generate` gives with
        `strip_prompt=True`; a random sampler draws otherwise where samples
        run at several budgets. The sampler must choose token by token:
        greedy, random, top-k or top-p.

        Args:
            inputs: string, list of strings or a dict, see `generate`.
            max_length: int. See `generate`.
            stop_token_ids: See `generate`.
            budget: See `generate`.
            reducer: See `generate`.

        Returns:
            An iterator over strings, or, if `inputs` is several prompts, over
            lists with a string for each of them, empty where there is nothing
            new.

        Example:
        ```python
        lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
        picture = keras_visor.datasets.RenderedPictures("test", 1).example(0)
        for piece in lm.stream(
            {"prompts": picture["questions"][0], "images": [picture["image"]]},
            max_length=64,
        ):
            print(piece, end="", flush=True)
        ```
        """
        if self.preprocessor is None:
            raise ValueError("`stream` needs the preprocessor, for its text.")
        if not writes_token_by_token(self.sampler):
            raise ValueError(
                "`stream` needs a sampler that chooses token by token: "
                "'greedy', 'random', 'top_k' or 'top_p'. Received: "
                f"sampler={self.sampler!r}"
            )
        prompts = inputs.get("prompts") if isinstance(inputs, dict) else inputs
        prepared = self._prepare(
            inputs, max_length, stop_token_ids, budget, reducer
        )
        pieces = self._pieces(*prepared)
        if isinstance(prompts, str):
            return (piece for (piece,) in pieces if piece)
        return pieces

    def _pieces(self, x, max_length, budgets, stop_token_ids, reducer):
        """New text of each sample after each step."""
        detokenize = self.preprocessor.tokenizer.detokenize
        texts = given = [""] * len(x["token_ids"])
        for answers in self.make_generate_function().stream(
            x, max_length, budgets, stop_token_ids, reducer
        ):
            texts = detokenize(answers)
            # A character whose bytes are not all there yet has to wait.
            ready = [text.rstrip("\ufffd") for text in texts]
            yield [t[len(g) :] for t, g in zip(ready, given, strict=True)]
            given = ready
        if texts != given:
            yield [t[len(g) :] for t, g in zip(texts, given, strict=True)]

    def _prepare(self, inputs, max_length, stop_token_ids, budget, reducer):
        """What the generator takes, everything checked."""
        _check_max_length(max_length)
        stop_token_ids = self._stop_token_ids(stop_token_ids)
        reducer = self._resolve_reducer(reducer)
        if self.preprocessor is None:
            x = {
                name: value
                if name == "vision"
                else np.array(ops.convert_to_numpy(value))
                for name, value in inputs.items()
            }
            max_length = x["token_ids"].shape[1]
            _check_encoded(x, reducer)
        else:
            if isinstance(inputs, dict) and "budget" in inputs:
                raise ValueError(
                    "Pass `budget` as an argument of `generate`, not within "
                    f"`inputs`. Received: budget={inputs['budget']}"
                )
            self._resolve_budgets(budget, None)
            max_length = max_length or self.preprocessor.sequence_length
            x = self.prompt_inputs(inputs, max_length, reducer)
        budgets = self._resolve_budgets(budget, len(x["token_ids"]))
        _check_ends_in_text(x)
        return x, max_length, budgets, stop_token_ids, reducer

    def _generate_batch(
        self, inputs, max_length, stop_token_ids, strip_prompt, budget, reducer
    ):
        x, max_length, *options = self._prepare(
            inputs, max_length, stop_token_ids, budget, reducer
        )
        answers, budgets = self.make_generate_function().generate(
            x, max_length, *options
        )
        report = {
            "budget": np.asarray(budgets),
            "text_tokens": x["padding_mask"].sum(axis=1),
            "vision_tokens": x["vision_mask"].sum(axis=1),
            "answer_tokens": np.array([len(answer) for answer in answers]),
        }
        prompts = [
            [] if strip_prompt else ids[mask].tolist()
            for ids, mask in zip(
                x["token_ids"], x["padding_mask"].astype(bool), strict=True
            )
        ]
        token_ids = [p + a for p, a in zip(prompts, answers, strict=True)]
        if self.preprocessor is not None:
            return self.preprocessor.tokenizer.detokenize(token_ids), report
        lengths = np.array([len(ids) for ids in token_ids])
        padded = np.zeros((len(token_ids), max_length), "int32")
        for row, ids in enumerate(token_ids):
            padded[row, : len(ids)] = ids
        mask = np.arange(max_length) < lengths[:, None]
        return {"token_ids": padded, "padding_mask": mask}, report

    def _stop_token_ids(self, stop_token_ids):
        if isinstance(stop_token_ids, str) and stop_token_ids == "auto":
            if self.preprocessor is None:
                raise ValueError(
                    '`stop_token_ids="auto"` needs the preprocessor, which is '
                    "detached. Pass `None` or a sequence of token ids."
                )
            stop_token_ids = self.preprocessor.tokenizer.stop_token_ids
        if stop_token_ids is None:
            return None
        size = self.backbone.vocabulary_size
        try:
            ids = tuple(map(operator.index, stop_token_ids))
            if not all(0 <= token_id < size for token_id in ids):
                raise TypeError
        except TypeError:
            raise ValueError(
                '`stop_token_ids` must be `None`, "auto" or a sequence of '
                f"token ids from 0 to {size - 1}. Received: "
                f"{stop_token_ids!r}"
            ) from None
        return ids or None

    def _resolve_reducer(self, reducer):
        if isinstance(reducer, str) and reducer == "auto":
            return self.reducer
        self.backbone.check_reducer(reducer)
        return reducer

    def _resolve_budgets(self, budget, batch_size):
        """Budget indices (batch_size,), or `None` where the policy chooses.

        With `batch_size` `None`, only checks what can be checked before.
        """
        last = len(self.backbone.budgets) - 1
        if isinstance(budget, str):
            named = {"full": last, "minimal": 0, "auto": None}
            if budget not in named:
                raise ValueError(
                    f"`budget` must be one of {sorted(named)}, an index from "
                    f"0 to {last} or a list of those. Received: {budget!r}"
                )
            if budget == "auto":
                if last == 0:
                    budget = 0
                elif self.backbone.policy is None:
                    if not self._said_full_for_auto:
                        self._said_full_for_auto = True
                        warnings.warn(
                            "This model has no budget policy: "
                            "budget='auto' runs the full budget.",
                            stacklevel=5,
                        )
                    budget = last
                else:
                    return None
            else:
                budget = named[budget]
        try:
            budgets = np.asarray(budget)
        except ValueError:  # Lists of several lengths.
            budgets = np.empty(0, object)
        if (
            budgets.dtype.kind not in "iu"
            or budgets.ndim > 1
            or not np.all((0 <= budgets) & (budgets <= last))
        ):
            raise ValueError(
                "`budget` must be 'auto', 'full', 'minimal', an index from 0 "
                f"to {last}, or one such index a sample. Received: {budget!r}"
            )
        if batch_size is None:
            return None
        if budgets.ndim and len(budgets) != batch_size:
            raise ValueError(
                "`budget` must have one index for each of the "
                f"{batch_size} samples. Received: {len(budgets)}"
            )
        return np.broadcast_to(budgets, (batch_size,))

    def prompt_inputs(
        self,
        inputs,
        max_length: int | None = None,
        reducer: str | Reducer | None = "auto",
    ) -> dict:
        """The backbone's inputs, with visual tokens where images came encoded.

        Args:
            inputs: String, list of strings or a dict, see `generate`.
            max_length: int. The most text tokens that a prompt may have.
                Defaults to `None`: the preprocessor's `sequence_length`.
            reducer: See `generate`. Whether the encoder's attention is
                wanted, where some images came encoded and others have to be.

        Returns:
            A dict of NumPy arrays, see `VisorBackbone`. If any image came
            encoded, it has, instead of `images`, the tensor `vision` (batch,
            vision_length, hidden_dim) and, if all of them have it, the
            encoder's attention, `vision_attention` (batch, vision_length).

        Raises:
            ValueError: Bad prompts or images, or encoded images that lack
                what the reducer goes by.
        """
        _check_max_length(max_length)
        reducer = self._resolve_reducer(reducer)
        if self.preprocessor is None:
            raise ValueError("Prompts and images need the preprocessor.")
        self._tell_preprocessor()
        max_length = max_length or self.preprocessor.sequence_length
        images = inputs.get("images") if isinstance(inputs, dict) else None
        entries = images if isinstance(images, (list, tuple)) else [images]
        if "prompts" not in inputs or not any(
            isinstance(entry, EncodedImages) for entry in entries
        ):
            return self._generation_batch(inputs, max_length)
        if isinstance(inputs["prompts"], str):
            inputs = {**inputs, "prompts": [inputs["prompts"]]}
        entries = self._encode(entries, reducer)
        x = self._generation_batch({**inputs, "images": entries}, max_length)
        batch, length = x["vision_mask"].shape
        if len(entries) == 1:
            entries = entries * batch
        x["vision"] = ops.stack(
            [
                ops.pad(e.tokens, ((0, length - e.tokens.shape[0]), (0, 0)))
                for e in entries
            ]
        )
        x |= stack_sources(entries, length)
        _check_encoded(x, reducer)
        return x

    def _generation_batch(self, inputs, max_length):
        return self.preprocessor.generation_batch(
            inputs, max_length, num_budgets=len(self.backbone.budgets)
        )

    def encode(self, images) -> Any:
        """Encode images once, for many questions.

        Args:
            images: One image, or a list with an entry for each prompt, as
                `generate` takes them: an image, the list of its images,
                `None` without one, or an `EncodedImages`, which stays.
                Several are encoded together, faster than one by one.

        Returns:
            An `EncodedImages` for one image, else a list of them, with no
            tokens where there is no image. `generate` takes them instead of
            images; a single one serves all prompts. Every visual token is
            there, whatever `lm.reducer` says. The encoder's attention is
            there only if `lm.reducer` goes by it.
        """
        several = isinstance(images, (list, tuple)) or (
            getattr(images, "ndim", 3) in (1, 4)
        )
        entries = list(images) if several else [images]
        if not entries or images is None:
            raise ValueError(f"`images` must hold an image. Received: {images}")
        if self.preprocessor is None:
            raise ValueError("`encode` needs the preprocessor, for pixels.")
        encoded = self._encode(entries, self.reducer)
        return encoded if several else encoded[0]

    def _encode(self, entries, reducer):
        encoded = [image_list(entry) for entry in entries]
        rows = []
        for row, entry in enumerate(encoded):
            if isinstance(entry, EncodedImages):
                continue
            if entry:
                rows.append(row)
            else:
                encoded[row] = self._no_image()
        for chunk in chunks(rows):
            found = self._encode_together([encoded[r] for r in chunk], reducer)
            for row, entry in zip(chunk, found, strict=True):
                encoded[row] = entry
        return encoded

    def _no_image(self):
        return EncodedImages(
            tokens=ops.zeros(
                (0, self.backbone.hidden_dim), self.backbone.compute_dtype
            ),
            image_lengths=(),
            indices=np.zeros((0, 4), "int32"),
            weights=np.zeros((0, 4), "float32"),
            attention=np.zeros(0, "float32"),
        )

    def _encode_together(self, entries, reducer):
        x = self.preprocessor.generate_preprocess(
            {
                "prompts": [IMAGE_MARK * len(entry) for entry in entries],
                "images": entries,
            },
            sequence_length=1,
        )
        tokens, attention = self.make_generate_function().encode(
            x, reducer is not None and reducer.needs_attention
        )
        if attention is not None:
            attention = ops.convert_to_numpy(attention)
        for row, mask in enumerate(x["vision_mask"].astype(bool)):
            length = bucket_length(int(mask.sum()))
            # Copies: a view would keep the padding of the whole chunk.
            yield EncodedImages(
                tokens=ops.copy(tokens[row, :length]),
                image_lengths=tuple(
                    np.bincount(x["vision_image_ids"][row, mask]).tolist()
                ),
                indices=x["vision_indices"][row, :length].copy(),
                weights=x["vision_weights"][row, :length].copy(),
                attention=None
                if attention is None
                else attention[row, :length].copy(),
            )

    def route(self, inputs: dict):
        """The policy's logits for preprocessed inputs.

        Args:
            inputs: dict, what `preprocessor.generate_preprocess` or
                `prompt_inputs` gives.

        Returns:
            A tensor (batch, number of budgets).

        Raises:
            ValueError: The model has no policy, or inputs are not preprocessed.
        """
        if "token_ids" not in inputs:
            raise ValueError(
                "`inputs` must be preprocessed: pass what "
                "`preprocessor.generate_preprocess` makes of prompts and "
                f"images. Received: a dict of {sorted(inputs)}"
            )
        if self.backbone.policy is None:
            raise ValueError(
                "This model has no budget policy: its backbone was made with "
                "policy_hidden_dim=None."
            )
        inputs = {
            name: ops.convert_to_numpy(value) for name, value in inputs.items()
        }
        _check_encoded(inputs, self.reducer)
        return self.make_generate_function().route(inputs, self.reducer)

    # === Training ===

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        validation_data=None,
        reducer: str | Reducer | None = "auto",
        **kwargs,
    ):
        """See `keras.Model.fit`.

        On TensorFlow, the lengths of batches are open while it traces: one
        thread makes the batches, and attention's scores stand in memory.

        Args:
            x: A dict of `prompts`, `responses`, `images` and, if wanted,
                `budget` (lists or arrays), or a `tf.data.Dataset`, a grain
                dataset or a `keras.utils.PyDataset` of batches of it. With
                the preprocessor detached, what it returns.
            y: Not used: labels come from `responses`.
            batch_size: int. For a dict. Defaults to `32`.
            validation_data: As `x`.
            reducer: See `generate`. For this call; one that is not the
                model's own costs a compilation.
            **kwargs: Other arguments of `keras.Model.fit`. Of a dict and of a
                `PyDataset`, `shuffle` shuffles whole batches.
        """
        with self._reduced_by(reducer):
            if not any(map(self._wraps, (x, validation_data))):
                return super().fit(
                    x=x,
                    y=y,
                    batch_size=batch_size,
                    validation_data=validation_data,
                    **kwargs,
                )
            shuffle = kwargs.pop("shuffle", True)
            x = self._preprocessed(_with_labels(x, y), batch_size, shuffle)
            validation_batch_size = kwargs.pop("validation_batch_size", None)
            validation_data = self._preprocessed(
                validation_data, validation_batch_size or batch_size
            )
            # What is a dataset of tf.data by now has its own order.
            kwargs["shuffle"] = shuffle and not hasattr(x, "as_numpy_iterator")
            return keras.Model.fit(
                self,
                x=x,
                validation_data=validation_data,
                **kwargs,
            )

    def preprocess_samples(self, x, y=None, sample_weight=None):
        if self.preprocessor is None:
            return super().preprocess_samples(x, y, sample_weight)
        return self.preprocessor(x, y, sample_weight, **self._preprocessing())

    def evaluate(
        self,
        x=None,
        y=None,
        batch_size=None,
        reducer: str | Reducer | None = "auto",
        **kwargs,
    ):
        """See `keras.Model.evaluate`, and `fit` for `x` and `reducer`."""
        # Within `fit` Keras brings validation data that are preprocessed.
        cached = kwargs.get("_use_cached_eval_dataset", False)
        with self._reduced_by(reducer):
            if cached or not self._wraps(x):
                return super().evaluate(
                    x=x, y=y, batch_size=batch_size, **kwargs
                )
            x = self._preprocessed(_with_labels(x, y), batch_size)
            return keras.Model.evaluate(self, x=x, **kwargs)

    @contextlib.contextmanager
    def _reduced_by(self, reducer):
        """`self.reducer` is another one for a while."""
        own, reducer = self.reducer, self._resolve_reducer(reducer)
        if reducer is own:
            yield
            return
        optimizer = self.optimizer
        functions = {
            name: getattr(self, name)
            for name in ("train_function", "test_function", "predict_function")
        }
        self.reducer = reducer
        try:
            yield
        finally:
            self.reducer = own
            if self.optimizer is optimizer:  # Not compiled anew meanwhile.
                for name, function in functions.items():
                    setattr(self, name, function)

    def predict(self, x=None, batch_size=None, **kwargs):
        """See `keras.Model.predict`: logits. For text, see `generate`."""
        if not self._wraps(x):
            return super().predict(x=x, batch_size=batch_size, **kwargs)
        return keras.Model.predict(
            self, x=self._preprocessed(x, batch_size), **kwargs
        )

    def _wraps(self, data):
        """Whether KerasHub's own pipeline has no place for these data.

        It takes no `PyDataset`, lists of images of many sizes are no arrays,
        and TensorFlow wants to know of grain that lengths vary.
        """
        if isinstance(data, tuple):
            data = data[0]
        if isinstance(data, dict):
            return self.preprocessor is not None
        return isinstance(data, keras.utils.PyDataset) or (
            is_grain(data) and keras.config.backend() == "tensorflow"
        )

    def _preprocessed(self, data, batch_size, shuffle=False):
        if isinstance(data, tuple):
            data, *labels = data
            if any(label is not None for label in labels):
                raise ValueError(
                    "Labels come from `responses`: pass no `y` and no "
                    f"`sample_weight`. Received: {labels}"
                )
        if data is not None and self.preprocessor is not None:
            self._tell_preprocessor()
            preprocess = functools.partial(
                self.preprocessor, **self._preprocessing()
            )
            if hasattr(data, "map"):  # tf.data or grain.
                data = data.map(preprocess)
            else:
                data = SampleBatches(data, preprocess, batch_size)
        return for_training(data, shuffle)


def _with_labels(x, y):
    return x if y is None else (x, y)


def _check_fits(preprocessor, backbone):
    """Else a model would read other patches than there are."""
    converter, tokenizer = preprocessor.image_converter, preprocessor.tokenizer
    _, _, *tile, _ = backbone.input["images"].shape
    sizes = {
        "image_converter.tile_size": (converter.tile_size, tile[0]),
        # No whole number where it has a class token.
        "image_converter.patches_per_side": (
            converter.patches_per_side,
            round(backbone.patches_per_tile**0.5, 3),
        ),
    }
    for name, (given, accepted) in sizes.items():
        if given != accepted:
            raise ValueError(
                f"`preprocessor.{name}` must be {accepted}, as the vision "
                f"encoder has it. Received: {given}"
            )
    # One that is read from files has no vocabulary until then.
    if tokenizer.definition is not None and (
        tokenizer.vocabulary_size() > backbone.vocabulary_size
    ):
        raise ValueError(
            "`preprocessor.tokenizer` must have at most the "
            f"{backbone.vocabulary_size} tokens of the backbone. Received: "
            f"{tokenizer.vocabulary_size()}"
        )


def _check_max_length(max_length):
    if max_length is not None and not (
        isinstance(max_length, numbers.Integral) and max_length >= 1
    ):
        raise ValueError(
            "`max_length` must be a positive number of text tokens. "
            f"Received: max_length={max_length!r}"
        )


def _check_encoded(x, reducer):
    """A reducer may go by more than an `EncodedImages` holds."""
    if "vision" not in x and "images" not in x and np.any(x["vision_mask"]):
        raise ValueError(
            "`inputs` must hold `images` or `vision`: of what `encode` gave, "
            f"`prompt_inputs` makes the latter. Received: {sorted(x)}"
        )
    if reducer is None or "vision" not in x:
        return
    if "vision_indices" not in x:
        raise ValueError(
            "`images` must hold what `encode` gave, for a reducer to know "
            "where each visual token comes from. Received: an `EncodedImages` "
            "without `indices` and `weights`"
        )
    if reducer.needs_attention and "vision_attention" not in x:
        raise ValueError(
            "`images` were encoded without the attention that the reducer "
            "goes by. Set `lm.reducer` to such a one before `encode`. "
            f"Received: reducer={reducer}"
        )


def _check_ends_in_text(x):
    """What follows an image can only be asked from text after it."""
    text = np.where(x["padding_mask"], x["text_positions"], -1).max(axis=1)
    vision = np.where(x["vision_mask"], x["vision_positions"], -1).max(axis=1)
    if np.any(text <= vision):
        index = int(np.flatnonzero(text <= vision)[0])
        raise ValueError(
            "A prompt must end in text, not in an image. Received such a "
            f"prompt at index {index}"
        )

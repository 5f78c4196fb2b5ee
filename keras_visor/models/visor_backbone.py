"""The VISOR backbone: vision tower, decoder and the roles of its layers."""

import json
from collections.abc import Iterable
from collections.abc import Sequence

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_visor.layers.budget_policy import BudgetPolicy
from keras_visor.layers.cross_attention import VisorCrossAttention
from keras_visor.layers.decoder_layer import VisorDecoderLayer
from keras_visor.layers.host_normal import HostNormal
from keras_visor.layers.layout import check_layout
from keras_visor.layers.layout import complete_layout
from keras_visor.layers.self_attention_gate import VisorSelfAttentionGate
from keras_visor.layers.streams import Streams
from keras_visor.layers.streams import last_token
from keras_visor.layers.vision_tower import VisorVisionTower
from keras_visor.models.loader import VisorPresetMixin
from keras_visor.reduction.reducer import Reducer
from keras_visor.reduction.selection import keep_best
from keras_visor.reduction.vision_sources import VisionSources


@keras.saving.register_keras_serializable("keras_visor")
class VisorBackbone(VisorPresetMixin, keras_hub.models.Backbone):
    """A LLaVA-OneVision whose decoder looks at the image in few layers only.

    Every decoder layer has one of three roles: cross-attention (the text
    reads the image, then the layer runs on the text), self-attention (the
    layer runs on visual and text tokens together, where the sample's budget
    switches it on) or text-only. A *budget* is a subset of the self-attention
    layers; `backbone.budgets` lists them from cheapest to dearest. Follows
    VISOR (arXiv 2603.23495); with every layer a self-attention layer and one
    budget it is LLaVA-OneVision itself, its dense self.

    Args:
        vision_encoder: A `keras_hub.models.SigLIPVisionEncoder`, of which the
            patch features before the final norm are taken, or any
            `keras.Model` from images (batch, height, width, 3) to features
            (batch, patches, feature_dim).
        vocabulary_size: int. Rows of the token embedding.
        num_layers: int. Number of decoder layers.
        num_query_heads: int. Query heads of the decoder's attention.
        num_key_value_heads: int. Key/value heads of the decoder's attention.
        hidden_dim: int. Width of the decoder.
        intermediate_dim: int. Width of the feed-forward networks.
        cross_attention_layers: list of int. Layers before which the text
            reads the image. Defaults to `None`: none.
        self_attention_layers: list of int. Layers that can refine the visual
            tokens. Defaults to `None`: every layer if
            `cross_attention_layers` is `None` too, else none.
        budgets: list of lists of int. Subsets of `self_attention_layers` from
            cheapest to dearest. Defaults to `None`: the full set only for the
            dense self; else the nested sets of `uniform_layout`.
        cross_attention_num_heads: int. Defaults to `None`:
            `num_query_heads`.
        cross_attention_num_key_value_heads: int. Defaults to `None`:
            `num_key_value_heads`.
        position_kernel_size: int. Width of the cross-attention's depthwise
            convolution. Defaults to `7`.
        policy_hidden_dim: int. Width of the budget policy's hidden layer.
            Defaults to `None`: no policy.
        policy_rule: `"argmax"` or `"tolerance"`, see `BudgetPolicy`. Defaults
            to `"argmax"`.
        policy_tolerance: float. See `BudgetPolicy`. Defaults to `0.0`.
        rope_max_wavelength: float. Base of the rotary embedding. Defaults to
            `1e6`.
        layer_norm_epsilon: float. Epsilon of every RMSNorm. Defaults to
            `1e-6`.
        tie_word_embeddings: bool. Whether the output projection is the token
            embedding. Defaults to `True`.
        dtype: string or `keras.DTypePolicy`, handed down to every layer but
            the encoder, which has its own.

    Inputs, a dict:
        token_ids: int32 (batch, text_length), text tokens only.
        padding_mask: bool (batch, text_length).
        text_positions: int32 (batch, text_length).
        images: float32 (batch, tiles, height, width, 3).
        vision_indices: int32 (batch, vision_length, 4), see
            `VisorVisionTower`.
        vision_weights: float32 (batch, vision_length, 4).
        vision_positions: int32 (batch, vision_length).
        vision_mask: bool (batch, vision_length).
        vision_image_ids: int32 (batch, vision_length), -1 at padding.
        budget: int32 (batch,), index into `budgets`.

    Returns:
        The final hidden states of the text tokens, (batch, text_length,
        hidden_dim).

    Example:
    ```python
    backbone = keras_visor.VisorBackbone.from_preset("visor_tiny_en")

    # A random one.
    backbone = keras_visor.VisorBackbone(
        vision_encoder=keras_hub.models.SigLIPVisionEncoder(
            patch_size=7,
            hidden_dim=16,
            num_layers=2,
            num_heads=2,
            intermediate_dim=32,
            image_shape=(28, 28, 3),
        ),
        vocabulary_size=100,
        num_layers=6,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=32,
        intermediate_dim=48,
        **keras_visor.uniform_layout(6),
    )
    ```
    """

    def __init__(
        self,
        vision_encoder: keras.Model,
        vocabulary_size: int,
        num_layers: int,
        num_query_heads: int,
        num_key_value_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        cross_attention_layers: Sequence[int] | None = None,
        self_attention_layers: Sequence[int] | None = None,
        budgets: Sequence[Sequence[int]] | None = None,
        cross_attention_num_heads: int | None = None,
        cross_attention_num_key_value_heads: int | None = None,
        position_kernel_size: int = 7,
        policy_hidden_dim: int | None = None,
        policy_rule: str = "argmax",
        policy_tolerance: float = 0.0,
        rope_max_wavelength: float = 1e6,
        layer_norm_epsilon: float = 1e-6,
        tie_word_embeddings: bool = True,
        dtype=None,
        **kwargs,
    ):
        layout = complete_layout(
            num_layers, cross_attention_layers, self_attention_layers, budgets
        )
        check_layout(num_layers, **layout)
        cross_layers, self_layers, budgets = layout.values()
        if cross_attention_num_heads is None:
            cross_attention_num_heads = num_query_heads
        if cross_attention_num_key_value_heads is None:
            cross_attention_num_key_value_heads = num_key_value_heads

        # === Layers ===
        self.token_embedding = keras.layers.ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            tie_weights=tie_word_embeddings,
            embeddings_initializer=HostNormal(stddev=0.02),
            dtype=dtype,
            name="token_embedding",
        )
        encoder = _patch_encoder(vision_encoder)
        self.vision_tower = VisorVisionTower(
            encoder, hidden_dim, dtype=dtype, name="vision_tower"
        )
        self.cross_attentions = [
            VisorCrossAttention(
                cross_attention_num_heads,
                cross_attention_num_key_value_heads,
                position_kernel_size=position_kernel_size,
                layer_norm_epsilon=layer_norm_epsilon,
                dtype=dtype,
                name=f"cross_attention_{layer}",
            )
            for layer in cross_layers
        ]
        self.decoder_layers = [
            (
                VisorSelfAttentionGate
                if layer in self_layers
                else VisorDecoderLayer
            )(
                intermediate_dim=intermediate_dim,
                num_query_heads=num_query_heads,
                num_key_value_heads=num_key_value_heads,
                rope_max_wavelength=rope_max_wavelength,
                layer_norm_epsilon=layer_norm_epsilon,
                dtype=dtype,
                name=f"decoder_layer_{layer}",
            )
            for layer in range(num_layers)
        ]
        self.final_norm = keras.layers.RMSNormalization(
            epsilon=layer_norm_epsilon, dtype=dtype, name="final_norm"
        )

        # === Config ===
        # Before the functional model, whose layer loop reads it.
        # As text: kept as a layer it would bring SigLIP's unused head along.
        self._vision_encoder_config = json.dumps(
            _encoder_config(vision_encoder)
        )
        self._patches_per_tile = _patches_per_tile(vision_encoder)
        self.vocabulary_size = vocabulary_size
        self.num_layers = num_layers
        self.num_query_heads = num_query_heads
        self.num_key_value_heads = num_key_value_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self._layout = (tuple(cross_layers), tuple(self_layers))
        self._budgets = tuple(tuple(budget) for budget in budgets)
        self.cross_attention_num_heads = cross_attention_num_heads
        self.cross_attention_num_key_value_heads = (
            cross_attention_num_key_value_heads
        )
        self.position_kernel_size = position_kernel_size
        self.policy_hidden_dim = policy_hidden_dim
        self.policy_rule = policy_rule
        self.policy_tolerance = policy_tolerance
        self.rope_max_wavelength = rope_max_wavelength
        self.layer_norm_epsilon = layer_norm_epsilon
        self.tie_word_embeddings = tie_word_embeddings

        # === Functional Model ===
        def text_input(name, dtype="int32"):
            return keras.Input((None,), dtype=dtype, name=name)

        inputs = {
            "token_ids": text_input("token_ids"),
            "padding_mask": text_input("padding_mask", "bool"),
            "text_positions": text_input("text_positions"),
            "images": keras.Input(
                (None, *encoder.inputs[0].shape[1:]),
                dtype="float32",
                name="images",
            ),
            "vision_indices": keras.Input(
                (None, 4), dtype="int32", name="vision_indices"
            ),
            "vision_weights": keras.Input(
                (None, 4), dtype="float32", name="vision_weights"
            ),
            "vision_positions": text_input("vision_positions"),
            "vision_mask": text_input("vision_mask", "bool"),
            "vision_image_ids": text_input("vision_image_ids"),
            "budget": keras.Input((), dtype="int32", name="budget"),
        }
        streams = self.run_layers(
            self.embed(inputs), self.switches(inputs["budget"])
        )
        super().__init__(
            inputs=inputs,
            outputs=self.final_norm(streams.text),
            dtype=dtype,
            **kwargs,
        )

        # The policy hangs beside the functional model: Keras' torch backend
        # would lose track of its weights if it were set before `__init__`.
        self.policy = None
        if policy_hidden_dim is not None:
            self.policy = BudgetPolicy(
                len(budgets),
                policy_hidden_dim,
                rule=policy_rule,
                tolerance=policy_tolerance,
                layer_norm_epsilon=layer_norm_epsilon,
                dtype=dtype,
                name="policy",
            )
            self.policy.build((None, hidden_dim))

    @property
    def cross_attention_layers(self) -> list[int]:
        """The layers before which the text reads the image, ascending."""
        return list(self._layout[0])

    @property
    def self_attention_layers(self) -> list[int]:
        """The layers that can refine the visual tokens, ascending."""
        return list(self._layout[1])

    @property
    def budgets(self) -> list[list[int]]:
        """The viable budgets, from cheapest to dearest (the full one)."""
        return [list(budget) for budget in self._budgets]

    @property
    def first_optional_layer(self) -> int:
        """The lowest layer on which the budgets differ; `num_layers` if none.

        The layers below it run once, whatever the budget, and are what the
        policy sees.
        """
        for layer in self.self_attention_layers:
            if len({layer in budget for budget in self._budgets}) == 2:
                return layer
        return self.num_layers

    @property
    def patches_per_tile(self) -> int:
        """How many features the vision encoder gives for one tile."""
        return self._patches_per_tile

    def embed(self, inputs: dict, reducer: Reducer | None = None) -> Streams:
        """The streams before the first decoder layer.

        Args:
            inputs: dict, the backbone's inputs.
            reducer: `keras_visor.reduction.Reducer`. Leaves visual tokens
                out. Defaults to `None`.
        """
        vision, sources = self.embed_images(inputs, reducer)
        streams = Streams(
            text=self.token_embedding(inputs["token_ids"]),
            text_positions=inputs["text_positions"],
            text_mask=inputs["padding_mask"],
            vision=vision,
            vision_positions=inputs["vision_positions"],
            vision_mask=inputs["vision_mask"],
            vision_image_ids=inputs["vision_image_ids"],
        )
        return streams if reducer is None else reducer.reduce(streams, sources)

    def embed_images(
        self, inputs: dict, reducer: Reducer | None = None
    ) -> tuple:
        """Visual tokens as they come, and what the reducer goes by.

        Args:
            inputs: dict, the backbone's inputs. Instead of `images` there may
                be visual tokens, encoded before: `vision`, and the encoder's
                attention on them, `vision_attention`.
            reducer: `keras_visor.reduction.Reducer`. Defaults to `None`.

        Returns:
            `(vision, sources)`: a tensor (batch, vision_length, hidden_dim)
            and a `VisionSources`.
        """
        # Encoded images may lack them, where no reducer goes by them.
        packing = inputs.get("vision_indices"), inputs.get("vision_weights")
        sources = VisionSources(*packing, self.patches_per_tile)
        if "vision" in inputs:
            attention = inputs.get("vision_attention")
            return inputs["vision"], sources._replace(attention=attention)
        if reducer is None or not reducer.needs_attention:
            return self.vision_tower(inputs["images"], *packing), sources
        vision, attention = self.vision_tower(
            inputs["images"], *packing, return_attention=True
        )
        return vision, sources._replace(attention=attention)

    def hidden_states(self, inputs: dict, reducer: Reducer):
        """What a call of the backbone gives, with fewer visual tokens.

        Args:
            inputs: dict, the backbone's inputs and, where responses follow
                the prompts, `prompt_lengths`, int32 (batch,): the number of
                text tokens of the prompt alone, whose last one then chooses
                where visual tokens are left out within the decoder.
            reducer: `keras_visor.reduction.Reducer`.

        Returns:
            A tensor (batch, text_length, hidden_dim).
        """
        # A functional model would; a call with a reducer comes by without.
        inputs = {
            name: ops.convert_to_tensor(value) for name, value in inputs.items()
        }
        streams = self.embed(inputs, reducer)
        if "prompt_lengths" in inputs:
            streams = streams._replace(reader=inputs["prompt_lengths"] - 1)
        switches = self.switches(inputs["budget"])
        streams = self.run_layers(streams, switches, reducer=reducer)
        return self.final_norm(streams.text)

    def check_reducer(self, reducer: Reducer | None) -> None:
        """An error where this backbone cannot use a reducer."""
        if reducer is None:
            return
        if not isinstance(reducer, Reducer):
            raise TypeError(
                "`reducer` must be one of `keras_visor.reduction` or None. "
                f"Received: reducer={reducer!r}"
            )
        if reducer.needs_attention and not self.vision_tower.has_attention:
            raise ValueError(
                "`reducer` goes by the attention in the last block of the "
                "vision encoder, which must be a `SigLIPVisionEncoder`. "
                f"Received: reducer={reducer}, and an encoder without "
                "attention that can be read"
            )
        looking = sorted(
            set(self.cross_attention_layers).union(
                set.intersection(*map(set, self._budgets))
            )
        )
        layers = reducer.rates_after(self.num_layers)
        unfit = [layer for layer in layers if layer not in looking]
        if unfit:
            raise ValueError(
                "`reducer` must leave tokens out after decoder layers that "
                "look at the image whatever the budget: of this model, "
                f"{looking}. Received: reducer={reducer}, which does so after "
                f"{unfit}"
            )

    def switches(self, budget) -> dict:
        """For each self-attention layer whether `budget` has it on.

        Args:
            budget: int, or an int32 tensor (batch,) of indices into
                `budgets`.

        Returns:
            A dict from layer index to a Python bool (where the answer does
            not depend on the sample) or a bool tensor (batch,).

        Raises:
            ValueError: There is no such budget.
        """
        last = len(self._budgets) - 1
        if isinstance(budget, int) and not 0 <= budget <= last:
            raise ValueError(
                f"`budget` must be an index from 0 to {last}. Received: "
                f"{budget}"
            )
        switches = {}
        for layer in self.self_attention_layers:
            on = [layer in budget for budget in self._budgets]
            if isinstance(budget, int):
                switches[layer] = on[budget]
            elif len(set(on)) == 1:
                switches[layer] = on[0]
            else:
                switches[layer] = (
                    ops.take(np.array(on, dtype="int32"), budget) > 0
                )
        return switches

    def shared_switches(self) -> dict:
        """For each self-attention layer whether any budget has it on.

        Below the first optional layer that is what every budget says; above
        it, whether a later layer may read the visual tokens.
        """
        return {
            layer: any(layer in budget for budget in self._budgets)
            for layer in self.self_attention_layers
        }

    def run_layers(
        self,
        streams: Streams,
        switches: dict,
        layers: Iterable[int] | None = None,
        cache: dict | None = None,
        keep_vision: bool = False,
        last_only: bool = False,
        reducer: Reducer | None = None,
    ) -> Streams:
        """Run decoder layers, each in its role.

        Visual tokens are refined as long as a later layer of the decoder
        reads them.

        Args:
            streams: `Streams` before the first of the layers.
            switches: dict, what `switches` gave.
            layers: The layer indices to run, in order. Defaults to `None`:
                all of them.
            cache: Optional dict with the keys "text", "vision" and "cross",
                which gets, by layer, the keys and values that decoding needs,
                and "kept", which with a reducer gets the positions and the
                mask of the visual ones. Wants Python bools in `switches`.
            keep_vision: bool. Refine the visual tokens even where no later
                layer reads them, to look at. Defaults to `False`.
            last_only: bool. After the decoder's last layer, compute the last
                text token only. Wants Python bools in `switches`. Defaults to
                `False`.
            reducer: `keras_visor.reduction.Reducer`. Leaves visual tokens out
                after some of the layers. Defaults to `None`.

        Returns:
            `Streams` after the last of the layers. With `last_only`, its text
            is one token, while positions and mask stay those of all.
        """
        if streams.vision is None:
            reducer = None
        rates = reducer.rates_after(self.num_layers) if reducer else {}
        rotations = {} if cache is None else self._make_rotations(streams)
        for index in range(self.num_layers) if layers is None else layers:
            if index in rates:
                attention = self.vision_attention(
                    index, streams, _reader(streams)
                )[:, 0]
            if reducer is not None and cache is not None:
                cache["kept"][str(index)] = (
                    streams.vision_positions,
                    streams.vision_mask,
                )
            if streams.vision is not None and index in self._layout[0]:
                streams = self._cross_attend(index, streams, cache)
            options = {
                "return_cache": cache is not None,
                "last_only": last_only and index == self.num_layers - 1,
                "text_rotation": rotations.get("text"),
            }
            if index in self._layout[1]:
                options["joint_rotation"] = rotations.get("joint")
                options["enabled"] = switches[index]
                options["refine_vision"] = (
                    keep_vision or self._is_vision_read_after(index, switches)
                )
            streams = self._decode(index, streams, cache, options)
            if index in rates:
                streams = keep_best(streams, attention, rates[index])
                if cache is not None:
                    rotations = self._make_rotations(streams)
        return streams

    def _make_rotations(self, streams):
        """The rotary embedding's tables, made once for all layers."""
        make_rotation = self.decoder_layers[0].make_rotation
        rotations = {"text": make_rotation(streams.text_positions)}
        if streams.vision is not None:
            positions = [streams.vision_positions, streams.text_positions]
            rotations["joint"] = make_rotation(
                ops.concatenate(positions, axis=1)
            )
        return rotations

    def _is_vision_read_after(self, index, switches):
        cross_attention_layers, _ = self._layout
        return any(layer > index for layer in cross_attention_layers) or any(
            layer > index and switch is not False
            for layer, switch in switches.items()
        )

    def cross_attention_at(self, index: int) -> VisorCrossAttention:
        """The cross-attention in front of decoder layer `index`."""
        return self.cross_attentions[self._layout[0].index(index)]

    def vision_attention(self, index, streams, reader=None):
        """How much text tokens, or the reader, look at the visual tokens.

        Args:
            index: int. A layer that looks at the image.
            streams: `Streams` before the layer.
            reader: int32 tensor (batch, 1), the index of a text token.
                Defaults to `None`: all of them.

        Returns:
            A float32 tensor (batch, text_length or 1, vision_length).
        """
        if index in self._layout[1]:
            return self.decoder_layers[index].vision_attention(
                streams.text,
                streams.vision,
                streams.text_positions,
                streams.vision_positions,
                streams.text_mask,
                streams.vision_mask,
                reader=reader,
            )
        text, positions = streams.text, streams.text_positions
        if reader is not None:
            text = ops.take_along_axis(text, reader[:, :, None], axis=1)
            positions = ops.take_along_axis(positions, reader, axis=1)
        return self.cross_attention_at(index).vision_attention(
            text,
            streams.vision,
            positions,
            streams.vision_positions,
            streams.vision_mask,
            streams.vision_image_ids,
        )

    def _cross_attend(self, index, streams, cache):
        output = self.cross_attention_at(index)(
            streams.text,
            streams.vision,
            text_positions=streams.text_positions,
            vision_positions=streams.vision_positions,
            vision_mask=streams.vision_mask,
            vision_image_ids=streams.vision_image_ids,
            return_cache=cache is not None,
        )
        if cache is not None:
            output, cache["cross"][str(index)] = output
        return streams._replace(text=streams.text + output)

    def _decode(self, index, streams, cache, options):
        layer = self.decoder_layers[index]
        if not isinstance(layer, VisorSelfAttentionGate):
            text = layer(
                streams.text,
                text_positions=streams.text_positions,
                text_mask=streams.text_mask,
                **options,
            )
            if cache is not None:
                text, cache["text"][str(index)] = text
            return streams._replace(text=text)
        outputs = layer(
            streams.text,
            streams.vision,
            text_positions=streams.text_positions,
            vision_positions=streams.vision_positions,
            text_mask=streams.text_mask,
            vision_mask=streams.vision_mask,
            **options,
        )
        if cache is not None:
            *outputs, text_cache, vision_cache = outputs
            cache["text"][str(index)] = text_cache
            if vision_cache is not None:
                cache["vision"][str(index)] = vision_cache
        return streams._replace(text=outputs[0], vision=outputs[1])

    def intermediates(
        self, inputs: dict, reducer: Reducer | None = None
    ) -> dict:
        """Run the backbone and return what happens inside, for analysis.

        Args:
            inputs: dict, the backbone's inputs; all samples must share one
                budget.
            reducer: `keras_visor.reduction.Reducer`. Leaves visual tokens
                out. Defaults to `None`.

        Returns:
            A dict with the keys
            - `hidden_states`: the backbone's output.
            - `text`: by layer, the text tokens after it.
            - `vision`: by layer, the visual tokens after it.
            - `vision_attention`: by layer that looks at the image, float32
              (batch, text_length, vision_length): how much each text token
              attends to each visual token, the mean over the heads. A row
              sums to the share of the attention that goes to the image.
            - `vision_positions`: by layer, int32 (batch, vision_length): the
              positions of the visual tokens before it, -1 at padding.
        """
        self.check_reducer(reducer)
        inputs = {
            name: ops.convert_to_tensor(value) for name, value in inputs.items()
        }
        budgets = set(ops.convert_to_numpy(inputs["budget"]).tolist())
        if len(budgets) != 1:
            raise ValueError(
                "`inputs['budget']` must be the same for all samples. "
                f"Received: {sorted(budgets)}"
            )
        switches = self.switches(int(budgets.pop()))
        streams = self.embed(inputs, reducer)
        text, vision, vision_attention, positions = {}, {}, {}, {}
        for index in range(self.num_layers):
            positions[index] = ops.where(
                ops.cast(streams.vision_mask, "bool"),
                streams.vision_positions,
                -1,
            )
            if index in self._layout[0] or switches.get(index, False):
                vision_attention[index] = self.vision_attention(index, streams)
            streams = self.run_layers(
                streams, switches, [index], keep_vision=True, reducer=reducer
            )
            text[index], vision[index] = streams.text, streams.vision
        return {
            "hidden_states": self.final_norm(streams.text),
            "text": text,
            "vision": vision,
            "vision_attention": vision_attention,
            "vision_positions": positions,
        }

    def default_lora_layer_names(self) -> list[str]:
        """Query and value of the decoder and the cross-attention.

        KerasHub's own default would reach the vision encoder too, whose
        layers are called "query" and "value".
        """
        return ["query_dense", "value_dense"]

    def get_config(self):
        config = super().get_config()
        config.update(
            {
                "vision_encoder": json.loads(self._vision_encoder_config),
                "vocabulary_size": self.vocabulary_size,
                "num_layers": self.num_layers,
                "num_query_heads": self.num_query_heads,
                "num_key_value_heads": self.num_key_value_heads,
                "hidden_dim": self.hidden_dim,
                "intermediate_dim": self.intermediate_dim,
                "cross_attention_layers": self.cross_attention_layers,
                "self_attention_layers": self.self_attention_layers,
                "budgets": self.budgets,
                "cross_attention_num_heads": self.cross_attention_num_heads,
                "cross_attention_num_key_value_heads": (
                    self.cross_attention_num_key_value_heads
                ),
                "position_kernel_size": self.position_kernel_size,
                "policy_hidden_dim": self.policy_hidden_dim,
                "policy_rule": self.policy_rule,
                "policy_tolerance": self.policy_tolerance,
                "rope_max_wavelength": self.rope_max_wavelength,
                "layer_norm_epsilon": self.layer_norm_epsilon,
                "tie_word_embeddings": self.tie_word_embeddings,
            }
        )
        return config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        encoder = config["vision_encoder"]
        if isinstance(encoder, dict):
            encoder = {**encoder, "config": dict(encoder["config"])}
            dtype = config.get("dtype", {})
            # A stored one is the decoder's own, unless it knows every layer.
            own = isinstance(dtype, dict) and (
                dtype.get("class_name") != "DTypePolicyMap"
            )
            if "dtype" in encoder["config"] and not own:
                # The encoder is nested: KerasHub's loader, which sets ours to
                # what its caller asks for, does not reach it.
                encoder["config"]["dtype"] = dtype
            config["vision_encoder"] = keras.saving.deserialize_keras_object(
                encoder
            )
        return super().from_config(config)


def _reader(streams):
    """Index of the text token that chooses visual tokens, (batch, 1)."""
    if streams.reader is None:
        return last_token(streams.text_mask)[:, None]
    return ops.cast(streams.reader, "int32")[:, None]


def _encoder_config(vision_encoder):
    config = keras.saving.serialize_keras_object(vision_encoder)
    # SigLIP's layers are called by its name, if it was given one: with the
    # automatic one, they would have other names after a reload.
    name = f"{vision_encoder.name}_"
    if not any(
        layer.name.startswith(name) for layer in vision_encoder.layers
    ) and isinstance(vision_encoder, keras_hub.models.SigLIPVisionEncoder):
        del config["config"]["name"]
    return config


def _patch_encoder(vision_encoder):
    """A model from images to patch features, sharing the encoder's layers."""
    if not isinstance(vision_encoder, keras_hub.models.SigLIPVisionEncoder):
        return vision_encoder
    last_block = vision_encoder.encoder_layers[-1]
    # Keras notes here, and never reads, who took the block's output: the
    # final norm and through it the pooling head would stay in memory.
    last_block._outbound_nodes.clear()
    return keras.Model(
        vision_encoder.inputs[0], last_block.output, name="patch_encoder"
    )


def _patches_per_tile(vision_encoder):
    if isinstance(vision_encoder, keras_hub.models.SigLIPVisionEncoder):
        # Its symbolic output shape states one token too many.
        return vision_encoder.embedding.num_positions
    patches = vision_encoder.output.shape[1]
    if patches is None:
        raise ValueError(
            "`vision_encoder` must give a known number of features, (batch, "
            f"features, width). Received: {vision_encoder.output.shape}"
        )
    return patches

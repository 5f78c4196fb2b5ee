"""The models that are trained: answers, and labels of visual tokens."""

import keras
from keras import ops
from model import LOOKING_LAYER
from model import PATCHES_PER_SIDE
from pages import LETTERS
from pages import PATCHES
from supervision import ROLES

from keras_visor.layers.take_tokens import take_tokens


class Reader(keras.Model):
    """Labels the patches of `Pages`: the encoder alone, without the decoder."""

    targets = (*ROLES[:2], "letter")

    def __init__(self, lm, labels):
        super().__init__()
        self.vision_tower = lm.backbone.vision_tower
        self.token_embedding = lm.backbone.token_embedding
        self.labels = labels
        self.letters = keras.layers.Dense(len(LETTERS), name="letters")

    def call(self, tiles):
        side = PATCHES_PER_SIDE
        patches = self.vision_tower.encode(tiles)
        # From tiles, two in a row, to the patches of the page, row by row.
        patches = ops.reshape(
            patches, (-1, 2, 2, side, side, patches.shape[-1])
        )
        patches = ops.transpose(patches, (0, 1, 3, 2, 4, 5))
        patches = ops.reshape(patches, (-1, PATCHES, patches.shape[-1]))
        scores = self.labels(patches)
        return {
            **{role: scores[role] for role in ROLES[:2]},
            "letter": self.letters(patches),
        }


class Supervised(keras.Model):
    """Answers, and says what its visual tokens show and where it looks."""

    targets = ("answer", "looks", *ROLES)

    def __init__(self, lm, labels):
        super().__init__()
        self.backbone = lm.backbone
        self.reducer = lm.reducer
        self.labels = labels

    def call(self, x):
        backbone = self.backbone
        switches = backbone.switches(x["budget"])
        streams = backbone.embed(x, self.reducer)
        if "prompt_lengths" in x:
            streams = streams._replace(reader=x["prompt_lengths"] - 1)
        streams = backbone.run_layers(
            streams, switches, range(LOOKING_LAYER), reducer=self.reducer
        )
        attention = backbone.vision_attention(LOOKING_LAYER, streams)
        looked_at = where_to_look(x, streams, self.reducer)
        streams = backbone.run_layers(
            streams,
            switches,
            range(LOOKING_LAYER, backbone.num_layers),
            reducer=self.reducer,
        )
        answers = backbone.token_embedding(
            backbone.final_norm(streams.text), reverse=True
        )
        slots, is_left = find_labelled(x, streams, self.reducer)
        scores = self.labels(take_tokens(streams.vision, slots))
        looks = ops.sum(ops.where(looked_at, attention, 0.0), axis=-1)
        # What has been left out costs the same whatever is done.
        looks = ops.where(ops.any(looked_at, axis=-1), looks, 1.0)
        return {
            "answer": answers,
            "looks": looks[:, :, None],
            **{
                role: ops.where(is_left[:, :, None], score, 0.0)
                for role, score in scores.items()
            },
        }


def where_to_look(x, streams, reducer):
    """At which of the visual tokens that are left a text token should look.

    Returns:
        bool tensor (batch, text_length, vision_length).
    """
    if reducer is None:
        return x["looked_at"]
    looked_at = ops.cast(x["looked_at"], "float32")
    return (
        ops.matmul(looked_at, ops.cast(same_places(x, streams), "float32")) > 0
    )


def find_labelled(x, streams, reducer):
    """Where the visual tokens are that labels speak of.

    Returns:
        `(slots, is_left)`: int and bool tensors (batch, labelled), where a
        labelled token stands among those that are left, and whether it does.
    """
    slots = x["labelled"]
    if reducer is None:
        return slots, ops.ones_like(slots, dtype="bool")
    labelled = ops.take_along_axis(
        ops.cast(same_places(x, streams), "int32"), slots[:, :, None], axis=1
    )
    return ops.argmax(labelled, axis=-1), ops.any(labelled > 0, axis=-1)


def same_places(x, streams):
    """Which of the visual tokens that are left stands where each one stood.

    Returns:
        bool tensor (batch, vision_length before, vision_length after).
    """
    before, after = x["vision_positions"], streams.vision_positions
    return ops.logical_and(
        before[:, :, None] == after[:, None], streams.vision_mask[:, None]
    )


def compile_supervised(model, optimizer):
    mean = {"reduction": "mean_with_sample_weight"}
    loss = dict.fromkeys(
        model.targets,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, **mean),
    )
    if "looks" in loss:
        # The attention that the right patches get, to be 1.
        loss["looks"] = keras.losses.BinaryCrossentropy(**mean)
    model.compile(
        optimizer,
        loss=loss,
        loss_weights={
            name: 1.0 if name == "answer" else 0.5 for name in model.targets
        },
        weighted_metrics={name: ["accuracy"] for name in model.targets},
    )
    optimizer.build(model.trainable_variables)

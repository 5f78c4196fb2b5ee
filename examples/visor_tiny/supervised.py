"""The models that are trained: answers, and labels of visual tokens."""

import keras
from keras import ops
from model import LOOKING_LAYER
from model import PATCHES_PER_SIDE
from pages import LETTERS
from pages import PATCHES
from supervision import ROLES


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
        self.labels = labels

    def call(self, x):
        backbone = self.backbone
        switches = backbone.switches(x["budget"])
        streams = backbone.run_layers(
            backbone.embed(x), switches, range(LOOKING_LAYER)
        )
        attention = backbone.vision_attention(LOOKING_LAYER, streams)
        looks = ops.sum(
            ops.where(x["looked_at"], attention, 0.0), axis=-1, keepdims=True
        )
        streams = backbone.run_layers(
            streams, switches, range(LOOKING_LAYER, backbone.num_layers)
        )
        answers = backbone.token_embedding(
            backbone.final_norm(streams.text), reverse=True
        )
        labelled = ops.take_along_axis(
            streams.vision, x["labelled"][:, :, None], axis=1
        )
        return {"answer": answers, "looks": looks, **self.labels(labelled)}


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

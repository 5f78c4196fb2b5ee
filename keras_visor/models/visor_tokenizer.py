"""The tokenizer: a Hugging Face tokenizer definition in a KerasHub layer."""

import os
from collections.abc import Sequence

import keras
import keras_hub
import tokenizers

from keras_visor.models.loader import VisorPresetMixin
from keras_visor.models.visor_backbone import VisorBackbone
from keras_visor.preprocessing.chat_template import TURN_END

DEFINITION_FILENAME = "tokenizer.json"
END_OF_TEXT = "<|endoftext|>"


@keras.saving.register_keras_serializable("keras_visor")
class VisorTokenizer(VisorPresetMixin, keras_hub.tokenizers.Tokenizer):
    """Qwen2's byte-level BPE, run by the `tokenizers` library.

    It holds a `tokenizer.json` as Hugging Face tokenizers write it, with its
    normalizer, split pattern and special tokens, so that its ids are those of
    `transformers`. (KerasHub's own `BytePairTokenizer` splits text with other
    patterns than Qwen2.) It runs in Python; the preprocessor takes it into
    tf.data and grain.

    Args:
        definition: string. The text of a `tokenizer.json`. Defaults to
            `None`: `load_assets` brings it.
        **kwargs: Other arguments of `keras_hub.tokenizers.Tokenizer`.

    Call arguments:
        inputs: string, or list of strings.

    Returns:
        A list of ids, or a list of those.

    Example:
    ```python
    tokenizer = keras_visor.VisorTokenizer.from_preset("visor_tiny_en")
    ids = tokenizer("what colour is the square?")
    tokenizer.detokenize(ids)
    ```
    """

    backbone_cls = VisorBackbone

    def __init__(self, definition: str | None = None, **kwargs):
        super().__init__(**kwargs)
        # It has no weights. `quantize` asks whether it is built.
        self.built = True
        self.file_assets = [DEFINITION_FILENAME]
        self._set_definition(definition)

    def _set_definition(self, definition):
        self.definition = definition
        self._tokenizer = None
        if definition is None:
            return
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(definition)
        except Exception as e:  # The library raises bare `Exception`s.
            raise ValueError(
                "`definition` must be the text of a Hugging Face "
                f"tokenizer.json. Received: {definition[:80]!r}..."
            ) from e
        # A definition may ask for truncation or padding; lengths are ours.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    @property
    def end_token_id(self) -> int:
        """The id that ends a turn, `<|im_end|>`."""
        return self.token_to_id(TURN_END)

    @property
    def pad_token_id(self) -> int:
        """The id at padding. A real token too: masks never come from ids."""
        ids = self.stop_token_ids
        return ids[-1] if ids else 0

    @property
    def stop_token_ids(self) -> list[int]:
        """The ids at which generation stops: `<|im_end|>`, `<|endoftext|>`."""
        ids = map(self._checked().token_to_id, (TURN_END, END_OF_TEXT))
        return [token_id for token_id in ids if token_id is not None]

    @property
    def special_token_ids(self) -> list[int]:
        """The ids of the tokens that are not text."""
        added = self._checked().get_added_tokens_decoder()
        return [token_id for token_id, t in added.items() if t.special]

    def tokenize(self, inputs: str | Sequence[str]) -> list:
        if isinstance(inputs, str):
            return self._checked().encode(inputs, add_special_tokens=False).ids
        encodings = self._checked().encode_batch(
            list(inputs), add_special_tokens=False
        )
        return [encoding.ids for encoding in encodings]

    def detokenize(self, inputs: Sequence) -> str | list[str]:
        if not isinstance(inputs, list | tuple):  # A tensor.
            inputs = keras.ops.convert_to_numpy(inputs)
        if len(inputs) and hasattr(inputs[0], "__len__"):
            return [self.detokenize(ids) for ids in inputs]
        # Without specials: generated text has none.
        return self._checked().decode(
            [int(token_id) for token_id in inputs], skip_special_tokens=True
        )

    def call(self, inputs):
        return self.tokenize(inputs)

    def get_vocabulary(self) -> list[str]:
        vocabulary = self._checked().get_vocab(with_added_tokens=True)
        return sorted(vocabulary, key=vocabulary.get)

    def vocabulary_size(self) -> int:
        return self._checked().get_vocab_size(with_added_tokens=True)

    def id_to_token(self, id: int) -> str:
        token = self._checked().id_to_token(id)
        if token is None:
            raise ValueError(
                "`id` must be an id of the vocabulary, which has "
                f"{self.vocabulary_size()} tokens. Received: id={id}"
            )
        return token

    def token_to_id(self, token: str) -> int:
        token_id = self._checked().token_to_id(token)
        if token_id is None:
            raise ValueError(
                f"`token` must be in the vocabulary. Received: token={token!r}"
            )
        return token_id

    def _checked(self):
        if self._tokenizer is None:
            raise ValueError(
                "This tokenizer has no definition yet. Pass `definition`, or "
                "load one with `from_preset` or `load_assets`."
            )
        return self._tokenizer

    def save_assets(self, dir_path: str) -> None:
        self._checked()
        path = os.path.join(dir_path, DEFINITION_FILENAME)
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.definition)

    def load_assets(self, dir_path: str) -> None:
        path = os.path.join(dir_path, DEFINITION_FILENAME)
        with open(path, encoding="utf-8") as file:
            self._set_definition(file.read())

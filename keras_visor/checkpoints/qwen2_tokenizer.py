"""The tokenizer of a checkpoint, as the text of a tokenizer.json."""

from tokenizers import AddedToken
from tokenizers import Regex
from tokenizers import Tokenizer
from tokenizers import decoders
from tokenizers import normalizers
from tokenizers import pre_tokenizers
from tokenizers import processors
from tokenizers.models import BPE

from keras_visor._compat import check_file_exists
from keras_visor._compat import get_file
from keras_visor.checkpoints.json_files import read_json

# Of `Qwen2Converter` in `transformers`: one digit a token, unlike Llama's.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def tokenizer_definition(preset: str) -> str:
    """The JSON text that defines a checkpoint's tokenizer.

    Args:
        preset: str. A directory or handle that holds a tokenizer.json, or a
            vocab.json and a merges.txt, with the special tokens in
            tokenizer_config.json or added_tokens.json: then Qwen2's pipeline
            is built around them, as `Qwen2Converter` of `transformers` does.

    Returns:
        A str, the text of a tokenizer.json.

    Raises:
        ValueError: No tokenizer files, or damaged ones. The message names the
            file.
    """
    if check_file_exists(preset, "tokenizer.json"):
        path = get_file(preset, "tokenizer.json")
        with open(path, encoding="utf-8") as file:
            definition = file.read()
        _parse(definition, path)
        return definition
    for name in ("vocab.json", "merges.txt"):
        if not check_file_exists(preset, name):
            raise ValueError(
                f"The checkpoint `{preset}` has no tokenizer: neither "
                f"`tokenizer.json` nor `{name}`."
            )
    return _qwen2(preset).to_str()


def set_pipeline(tokenizer: Tokenizer) -> None:
    """Give a byte-pair encoding Qwen2's normalizer, splits and decoder."""
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)


def _qwen2(preset) -> Tokenizer:
    vocabulary, merges = (
        get_file(preset, name) for name in ("vocab.json", "merges.txt")
    )
    try:
        tokenizer = Tokenizer(BPE.from_file(vocabulary, merges))
    except Exception as error:  # The library raises bare `Exception`.
        raise ValueError(
            f"`{vocabulary}` and `{merges}` do not define a byte-pair "
            f"encoding: {error}"
        ) from error
    set_pipeline(tokenizer)
    for token_id, token in sorted(_added_tokens(preset).items()):
        tokenizer.add_tokens([token])
        if tokenizer.token_to_id(token.content) != token_id:
            raise ValueError(
                f"The added token {token.content!r} of `{preset}` must have "
                f"the id {tokenizer.token_to_id(token.content)}, the next "
                f"free one. Received: {token_id}"
            )
    return tokenizer


def _added_tokens(preset) -> dict[int, AddedToken]:
    try:
        return _read_added_tokens(preset)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"The added tokens of `{preset}`, in tokenizer_config.json or "
            f"added_tokens.json, are not those of a tokenizer: {error!r}"
        ) from error


def _read_added_tokens(preset):
    config = read_json(preset, "tokenizer_config.json") or {}
    if "added_tokens_decoder" in config:
        return {
            int(token_id): AddedToken(
                entry["content"],
                **{flag: entry[flag] for flag in FLAGS if flag in entry},
            )
            for token_id, entry in config["added_tokens_decoder"].items()
        }
    tokens = read_json(preset, "added_tokens.json") or {}
    return {
        int(token_id): AddedToken(content, special=True, normalized=False)
        for content, token_id in tokens.items()
    }


def _parse(definition, path):
    try:
        Tokenizer.from_str(definition)
    except Exception as error:  # The library raises bare `Exception`.
        raise ValueError(
            f"`{path}` does not define a tokenizer: {error}"
        ) from error

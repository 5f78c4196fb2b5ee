import pytest

from keras_visor.preprocessing.chat_template import JINJA_TEMPLATE
from keras_visor.preprocessing.chat_template import is_written_out
from keras_visor.preprocessing.chat_template import wrap_question


def render(messages, add_generation_prompt):
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, _ = render_jinja_template(
        [messages],
        chat_template=JINJA_TEMPLATE,
        add_generation_prompt=add_generation_prompt,
    )
    return rendered[0]


def test_wraps_a_question():
    assert wrap_question("What is this?", 2) == (
        "<|im_start|>user <image><image>\nWhat is this?<|im_end|>"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("num_images", [0, 1, 3])
@pytest.mark.parametrize("question", ["Why?", "", " two\nlines ", "{{ 1 }}'\""])
def test_agrees_with_the_jinja_template(question, num_images):
    content = [{"type": "text", "text": question}]
    content += [{"type": "image"}] * num_images
    messages = [{"role": "user", "content": content}]
    assert wrap_question(question, num_images) == render(messages, True)


def test_jinja_template_renders_conversations():
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Who?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "I."}]},
    ]
    assert render(messages, False) == (
        "<|im_start|>user \nWho?<|im_end|><|im_start|>assistant \nI.<|im_end|>"
    )


def test_is_written_out():
    assert is_written_out("<image>\nWhat?")
    assert is_written_out("<|im_start|>user \nWhat?<|im_end|>")
    assert is_written_out(wrap_question("What?", 0))
    assert not is_written_out("What is an image?")
    assert not is_written_out("")


def test_negative_number_of_images():
    with pytest.raises(ValueError, match="`num_images`.*-1"):
        wrap_question("What?", -1)

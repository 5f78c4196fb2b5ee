r"""The chat template of LLaVA-OneVision: Qwen2's ChatML, images first.

One question about two images reads

    <|im_start|>user <image><image>
    What changed?<|im_end|><|im_start|>assistant

and ends with a newline, after which the model answers.
"""

IMAGE_MARK = "<image>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"

# As llava-hf/llava-onevision-qwen2-0.5b-ov-hf on the hub renders images and
# text; its videos and its marks of what to train on are left out.
JINJA_TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + ' '}}"
    "{# Render all images first #}"
    "{% for content in message['content']"
    " | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>' }}"
    "{% endfor %}"
    "{# Render all text next #}"
    "{% for content in message['content']"
    " | selectattr('type', 'equalto', 'text') %}"
    r"{{ '\n' + content['text'] }}"
    "{% endfor %}"
    "{{'<|im_end|>'}}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    r"{{ '<|im_start|>assistant\n' }}"
    "{% endif %}"
)


def is_written_out(prompt: str) -> bool:
    """Tells whether a prompt has its template or image marks already.

    Args:
        prompt: string. What a user passes.

    Returns:
        bool. `True` for a prompt to be taken as it stands, `False` for a plain
        question, which `wrap_question` wraps.
    """
    return IMAGE_MARK in prompt or TURN_START in prompt


def wrap_question(question: str, num_images: int) -> str:
    """Puts a question, after its images, into the chat template.

    Renders what `JINJA_TEMPLATE` renders, with a generation prompt, for one
    user turn that holds `num_images` images and `question`.

    Args:
        question: string. The user's words.
        num_images: int. How many images the question is about, 0 or more.

    Returns:
        string. The prompt, with one `<image>` for each image.

    Example:

    ```python
    wrap_question("What is this?", 1)
    # '<|im_start|>user <image>\\nWhat is this?<|im_end|>'
    # '<|im_start|>assistant\\n'
    ```
    """
    if num_images < 0:
        raise ValueError(
            f"`num_images` must be 0 or more. Received: {num_images}."
        )
    return (
        f"{TURN_START}user {IMAGE_MARK * num_images}\n{question}{TURN_END}"
        f"{TURN_START}assistant\n"
    )

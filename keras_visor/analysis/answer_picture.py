"""A picture of an answer: what was asked, and where each layer looked."""

import math
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
from keras import ops
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont
from PIL import ImageOps

from keras_visor.analysis.kept_tokens import kept_tokens
from keras_visor.models.visor_backbone import VisorBackbone
from keras_visor.preprocessing.rgb import to_rgb

CROSS_ATTENTION = "cross-attention"
SELF_ATTENTION_ON = "self-attention on"
SELF_ATTENTION_OFF = "self-attention off"
TEXT_ONLY = "text-only"

# A role's fill, outline and text colour (from Okabe and Ito's palette, told
# apart by the colour-blind too), and what the layer does.
ROLES = {
    CROSS_ATTENTION: (
        "#0072b2",
        "#0072b2",
        "white",
        "The text reads the image.",
    ),
    SELF_ATTENTION_ON: (
        "#d55e00",
        "#d55e00",
        "white",
        "Image and text tokens run together.",
    ),
    SELF_ATTENTION_OFF: (
        "#fdf0e6",
        "#d55e00",
        "#a84a00",
        "Could do so; here, text alone.",
    ),
    TEXT_ONLY: ("#dcdfe4", "#dcdfe4", "#3c4450", "Never sees the image."),
}

# From a look at nothing to the strongest one, black to pale yellow.
HEAT = np.array(
    [(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)]
)

WIDTH = 1280
MARGIN = 40
INNER_WIDTH = WIDTH - 2 * MARGIN
PICTURES_WIDTH = 340
GAP = 8
LAYERS_PER_ROW = 12
INK = "#1c2128"
FAINT_INK = "#656d76"


def layer_roles(backbone: VisorBackbone, budget: int) -> list[str]:
    """What each decoder layer does under a budget.

    Args:
        backbone: `VisorBackbone`.
        budget: int. An index into `backbone.budgets`.

    Returns:
        A list with one of `"cross-attention"`, `"self-attention on"`,
        `"self-attention off"` and `"text-only"` for each layer.

    Raises:
        ValueError: There is no such budget.
    """
    switches = backbone.switches(int(budget))
    roles = [TEXT_ONLY] * backbone.num_layers
    for layer in backbone.cross_attention_layers:
        roles[layer] = CROSS_ATTENTION
    for layer, on in switches.items():
        roles[layer] = SELF_ATTENTION_ON if on else SELF_ATTENTION_OFF
    return roles


def attention_maps(
    vision_attention: Mapping,
    inputs: Mapping,
    patches_per_side: int,
    vision_positions: Mapping | None = None,
) -> dict[int, np.ndarray]:
    """Where the last prompt token looked, on the base tile of each image.

    Args:
        vision_attention: dict. What `backbone.intermediates(inputs)` has
            under that name, of one sample.
        inputs: dict. The backbone's inputs, of that sample.
        patches_per_side: int. The image converter's.
        vision_positions: dict. What `intermediates` has under that name,
            needed where a reducer leaves visual tokens out: nobody looks at
            those. Defaults to `None`.

    Returns:
        A dict from each layer that looks at the image to a float32 array
        (images, patches_per_side, patches_per_side). A map sums to the share
        of the token's attention that goes to the base tile; the rest goes to
        the picture's enlarged tiles and, in self-attention, to the text.

    Raises:
        ValueError: There is more than one sample or no image, an image has
            fewer visual tokens than a base tile, or `vision_positions` is
            missing.
    """
    mask, image_ids = (
        ops.convert_to_numpy(inputs[name])
        for name in ("padding_mask", "vision_image_ids")
    )
    if len(mask) != 1:
        raise ValueError(
            f"`inputs` must hold one sample. Received: {len(mask)}"
        )
    if image_ids[0].max(initial=-1) < 0:
        raise ValueError("`inputs` must hold an image. Received: none")
    last = int(mask[0].sum()) - 1
    # An image's first visual tokens are its base tile's, row by row.
    tiles = [
        np.flatnonzero(image_ids[0] == image)[: patches_per_side**2]
        for image in range(image_ids[0].max() + 1)
    ]
    for image, tile in enumerate(tiles):
        if len(tile) < patches_per_side**2:
            raise ValueError(
                f"Each image must have {patches_per_side**2} or more visual "
                f"tokens, those of its base tile. Received: {len(tile)} of "
                f"image {image}"
            )
    side = patches_per_side
    maps = {}
    for layer, attention in vision_attention.items():
        row = ops.convert_to_numpy(attention)[0, last].astype("float32")
        if vision_positions is not None:
            kept = kept_tokens(vision_positions[layer], inputs)
            row, seen = np.zeros(len(kept), "float32"), row
            row[kept] = seen[: kept.sum()]
        elif len(row) != image_ids.shape[1]:
            raise ValueError(
                "`vision_positions` is needed where a reducer has left visual "
                f"tokens out. Received: None, and {len(row)} of "
                f"{image_ids.shape[1]} tokens at layer {layer}"
            )
        maps[layer] = np.stack(
            [row[tile].reshape(side, side) for tile in tiles]
        )
    return maps


def draw_answer(
    images: Sequence,
    question: str,
    answer: str,
    roles: Sequence[str],
    maps: Mapping[int, np.ndarray],
) -> Image.Image:
    """Draw the images, the question, the answer and what each layer did.

    Below images and words stands a column for each decoder layer, in the
    colour of its role; where a layer looked at the images, with a heat map
    over each.

    Args:
        images: list. The images of the prompt: paths, PIL images or arrays.
        question: string.
        answer: string.
        roles: list of strings. What `layer_roles` gives.
        maps: dict. What `attention_maps` gives.

    Returns:
        A PIL image, RGB, 1280 pixels wide.

    Raises:
        ValueError: There is no image or an unknown role; a map is of no
            layer, has not one entry for each image, or is not finite and
            positive.

    Example:
    ```python
    lm = keras_visor.VisorCausalLM.from_preset("visor_tiny_en")
    picture = keras_visor.datasets.RenderedPictures("test", 1).example(0)
    inputs = {"prompts": picture["questions"][:1], "images": [picture["image"]]}
    answers, report = lm.generate(
        inputs, strip_prompt=True, return_report=True
    )
    budget = int(report["budget"][0])

    x = lm.preprocessor.generate_preprocess({**inputs, "budget": [budget]})
    attention = lm.backbone.intermediates(x)["vision_attention"]
    side = lm.preprocessor.image_converter.patches_per_side
    keras_visor.analysis.draw_answer(
        [picture["image"]],
        picture["questions"][0],
        answers[0],
        keras_visor.analysis.layer_roles(lm.backbone, budget),
        keras_visor.analysis.attention_maps(attention, x, side),
    ).save("answer.png")
    ```
    """
    _check(images, roles, maps)
    # Small at once: a photo has a thousand times the pixels drawn here.
    pictures = [
        _fit(Image.fromarray(to_rgb(image)), PICTURES_WIDTH) for image in images
    ]
    words_width = INNER_WIDTH - PICTURES_WIDTH - MARGIN
    top = _beside(
        _grid(pictures, PICTURES_WIDTH), _words(question, answer, words_width)
    )
    return _stack([top, _layers(pictures, roles, maps), _legend(roles)])


def _check(images, roles, maps):
    if not len(images):
        raise ValueError("`images` must hold an image. Received: none")
    unknown = sorted(set(roles) - ROLES.keys())
    if unknown or not roles:
        raise ValueError(
            f"`roles` must hold, for each layer, one of {list(ROLES)}. "
            f"Received: {unknown or roles}"
        )
    for layer, heat in maps.items():
        if layer not in range(len(roles)):
            raise ValueError(
                "`maps` must be of layers from 0 to "
                f"{len(roles) - 1}. Received: layer {layer}"
            )
        heat = np.asarray(heat)
        if heat.ndim != 3 or len(heat) != len(images):
            raise ValueError(
                "`maps` must have shape (images, side, side), with "
                f"{len(images)} images. Received: {heat.shape} at layer "
                f"{layer}"
            )
        if not np.all(np.isfinite(heat) & (heat >= 0)):
            raise ValueError(
                "`maps` must be finite and not negative. Received such "
                f"values at layer {layer}"
            )


# === The parts, each an image of its own ===


def _words(question, answer, width):
    """The question and, larger, the answer."""
    lines = [("QUESTION", 15, FAINT_INK)]
    lines += [(line, 28, INK) for line in _wrap(question, 28, width)]
    lines += [("", 22, INK), ("ANSWER", 15, FAINT_INK)]
    if answer.strip():
        lines += [(line, 42, INK) for line in _wrap(answer, 42, width)]
    else:
        lines += [("(empty)", 42, FAINT_INK)]
    heights = [round(size * 1.35) for _, size, _ in lines]
    panel, draw = _panel(width, sum(heights))
    y = 0
    for (line, size, ink), height in zip(lines, heights, strict=True):
        draw.text((0, y), line, ink, _font(size))
        y += height
    return panel


def _layers(pictures, roles, maps):
    """A column for each decoder layer, in rows of equal length."""
    rows = math.ceil(len(roles) / LAYERS_PER_ROW)
    per_row = math.ceil(len(roles) / rows)
    width = min((INNER_WIDTH + GAP) // per_row - GAP, 240)
    columns = [
        _layer(layer, role, pictures, maps.get(layer), width)
        for layer, role in enumerate(roles)
    ]
    strips = []
    for first in range(0, len(columns), per_row):
        strip = columns[first : first + per_row]
        height = max(column.height for column in strip)
        panel, _ = _panel(INNER_WIDTH, height)
        for place, column in enumerate(strip):
            panel.paste(column, (place * (width + GAP), 0))
        strips.append(panel)
    title, draw = _panel(INNER_WIDTH, 20)
    draw.text((0, 0), "DECODER LAYERS", FAINT_INK, _font(15))
    panel, _ = _panel(
        INNER_WIDTH,
        title.height + sum(strip.height + 2 * GAP for strip in strips) - GAP,
    )
    panel.paste(title, (0, 0))
    y = title.height + GAP
    for strip in strips:
        panel.paste(strip, (0, y))
        y += strip.height + 2 * GAP
    return panel


def _layer(layer, role, pictures, maps, width):
    """A layer's number and role and, if it looked, its heat maps."""
    fill, outline, ink, _ = ROLES[role]
    header_height = 36
    parts = []
    if maps is not None:
        alone = len(pictures) == 1
        columns = math.isqrt(len(pictures))
        side = (width - GAP * (columns - 1)) // columns
        parts = [
            _heat_map(picture, heat, side, alone)
            for picture, heat in zip(pictures, maps, strict=True)
        ]
        parts = [_grid(parts, width, columns)]
    panel, draw = _panel(
        width, header_height + sum(GAP + part.height for part in parts)
    )
    panel.paste(_rounded_box(width, header_height, fill, outline), (0, 0))
    # Names everywhere or nowhere: the colours tell the roles apart too.
    names_fit = width >= 180
    label = f"{layer}  {role}" if names_fit else str(layer)
    draw.text(
        (width // 2, header_height // 2), label, ink, _font(16), anchor="mm"
    )
    for part in parts:
        panel.paste(part, (0, header_height + GAP))
    return panel


def _heat_map(picture, heat, side, alone):
    """A heat map over its faded picture, and the share it stands for."""
    # As the base tile has it: one image is squeezed into the square, which
    # is undone here; of several, each is padded to it.
    faded = ImageOps.autocontrast(ImageOps.grayscale(picture))
    faded = _fit(faded, side)
    if not alone:
        faded = ImageOps.pad(faded, (side, side), color=128)
    strength = heat / max(heat.max(), np.finfo("float32").tiny)
    # Patch by patch: a smooth map would claim to know more.
    patches = Image.fromarray(_heat_colours(strength))
    patches = patches.resize(faded.size, Image.Resampling.NEAREST)
    blended = Image.blend(faded.convert("RGB"), patches, 0.68)
    panel, draw = _panel(side, blended.height + 22)
    panel.paste(blended, ((side - blended.width) // 2, 0))
    draw.text(
        (side // 2, blended.height + 13),
        f"{heat.sum():.0%}",
        FAINT_INK,
        _font(14),
        anchor="mm",
    )
    return panel


def _legend(roles):
    """What the colours mean."""
    panel, draw = _panel(INNER_WIDTH, 112)
    draw.line((0, 0, INNER_WIDTH, 0), "#d0d7de", 1)
    step = INNER_WIDTH // len(ROLES)
    for place, (role, (fill, outline, _, meaning)) in enumerate(ROLES.items()):
        x = place * step
        panel.paste(_rounded_box(24, 24, fill, outline), (x, 20))
        title = f"{role} ({list(roles).count(role)})"
        draw.text((x + 34, 16), title, INK, _font(16))
        draw.text((x + 34, 38), meaning, FAINT_INK, _font(14))
    scale = _heat_colours(np.linspace(0, 1, 120)[None])
    panel.paste(Image.fromarray(scale).resize((120, 14)), (0, 82))
    draw.text(
        (134, 89),
        "Where the last prompt token looked, none to most, each map by its "
        "own maximum. Below it, its share of the token's attention; the rest "
        "went to enlarged tiles and text.",
        FAINT_INK,
        _font(14),
        anchor="lm",
    )
    return panel


# === Putting parts together ===


def _stack(panels):
    height = MARGIN + sum(panel.height + MARGIN for panel in panels)
    canvas, _ = _panel(WIDTH, height)
    y = MARGIN
    for panel in panels:
        canvas.paste(panel, (MARGIN, y))
        y += panel.height + MARGIN
    return canvas


def _beside(left, right):
    panel, _ = _panel(INNER_WIDTH, max(left.height, right.height))
    panel.paste(left, (0, 0))
    panel.paste(right, (INNER_WIDTH - right.width, 0))
    return panel


def _grid(pictures, width, columns=None):
    """Pictures row by row, each shrunk to its place."""
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    side = (width - GAP * (columns - 1)) // columns
    pictures = [
        picture if picture.width == side else _fit(picture, side)
        for picture in pictures
    ]
    rows = [
        pictures[first : first + columns]
        for first in range(0, len(pictures), columns)
    ]
    heights = [max(picture.height for picture in row) for row in rows]
    panel, _ = _panel(width, sum(heights) + GAP * (len(rows) - 1))
    y = 0
    for row, height in zip(rows, heights, strict=True):
        for place, picture in enumerate(row):
            panel.paste(picture, (place * (side + GAP), y))
        y += height + GAP
    return panel


def _panel(width, height):
    panel = Image.new("RGB", (width, height), "white")
    return panel, ImageDraw.Draw(panel)


def _rounded_box(width, height, fill, outline):
    # Drawn large, then shrunk: Pillow's own corners are jagged.
    panel, draw = _panel(4 * width, 4 * height)
    corners = (0, 0, 4 * width - 1, 4 * height - 1)
    draw.rounded_rectangle(corners, 20, fill, outline, 8)
    return panel.resize((width, height), Image.Resampling.BOX)


def _fit(picture, side):
    """Enlarge or shrink to fit into a square; never to nothing."""
    scale = side / max(picture.size)
    size = [max(round(length * scale), 1) for length in picture.size]
    return picture.resize(size, Image.Resampling.LANCZOS)


def _heat_colours(strength):
    """uint8 colours (..., 3) of values from 0 to 1."""
    places = np.linspace(0, 1, len(HEAT))
    colours = [np.interp(strength, places, channel) for channel in HEAT.T]
    return np.stack(colours, axis=-1).round().astype("uint8")


def _font(size):
    return ImageFont.load_default(size)


def _wrap(text, size, width):
    """Lines that fit; a word that is wider than a line is broken."""
    font = _font(size)
    lines = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            joined = f"{line} {word}".lstrip()
            if font.getlength(joined) <= width:
                line = joined
                continue
            if line:
                lines.append(line)
            line = ""
            for letter in word:
                if font.getlength(line + letter) > width:
                    lines.append(line)
                    line = ""
                line += letter
        lines.append(line)
    return lines

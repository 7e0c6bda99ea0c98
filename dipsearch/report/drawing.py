"""A drawing of a genome's network, as SVG: maps by level, and what joins them. `DIAGRAMS` has one function a family."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from dipsearch.genome import Decoder, Genome, Hourglass, Linked, Pyramid, ResNet, UNet

COLUMN, ROW, WIDTH, HEIGHT, MARGIN = 88, 64, 76, 40, 8  # pixels: between boxes, of a box, around all
LONGEST = 13  # letters in a box


@dataclass(frozen=True)
class Box:
    """A map: `label` says its channels, `detail` what makes it; level 0 is full resolution."""

    column: float
    level: int
    label: str
    detail: str = ""
    kind: str = "map"


@dataclass(frozen=True)
class Arrow:
    """From box to box, by their places in the list."""

    start: int
    end: int
    label: str = ""
    kind: str = "flow"  # flow, skip: within a level, link: across levels


@dataclass(frozen=True)
class Diagram:
    """What is drawn of a network."""

    boxes: list[Box]
    arrows: list[Arrow]


def diagram(genome: Genome) -> Diagram:
    """The maps of a genome's network, and what joins them."""
    return DIAGRAMS[genome.family](genome)


def draw_network(genome: Genome) -> Markup:
    """An `<svg>` element for an HTML page, coloured by the classes `box`, `flow`, `skip`, `link`; safe to insert."""
    drawn = diagram(genome)
    columns = max(box.column for box in drawn.boxes)
    levels = max(box.level for box in drawn.boxes)
    left = 44  # room for the resolutions
    width = left + columns * COLUMN + WIDTH + 2 * MARGIN
    height = levels * ROW + HEIGHT + 2 * MARGIN + 14  # room for a label above the first row

    def middle(box: Box) -> tuple[float, float]:
        return left + MARGIN + box.column * COLUMN + WIDTH / 2, MARGIN + 14 + box.level * ROW + HEIGHT / 2

    parts = [_arrow(middle(drawn.boxes[arrow.start]), middle(drawn.boxes[arrow.end]), arrow) for arrow in drawn.arrows]
    parts += [_box(middle(box), box) for box in drawn.boxes]
    for level in sorted({box.level for box in drawn.boxes}):
        y = MARGIN + 14 + level * ROW + HEIGHT / 2 + 4
        parts.append(Markup('<text class="level" x="{}" y="{:g}">{}</text>').format(MARGIN, y, _resolution(level)))
    return Markup(
        '<svg class="network" role="img" aria-label="{}" viewBox="0 0 {:g} {:g}" width="{:g}" height="{:g}">{}</svg>'
    ).format(genome.summary(), width, height, width, height, Markup("").join(parts))


def _resolution(level: int) -> str:
    return "1:1" if level == 0 else f"1:{2**level}"


def _box(centre: tuple[float, float], box: Box) -> Markup:
    x, y = centre[0] - WIDTH / 2, centre[1] - HEIGHT / 2
    lines = [(box.label, "label"), (box.detail, "detail")] if box.detail else [(box.label, "label")]
    offsets = (-3, 12) if box.detail else (4,)
    words = Markup("").join(
        Markup('<text class="{}" x="{:g}" y="{:g}">{}</text>').format(kind, centre[0], centre[1] + offset, _short(text))
        for (text, kind), offset in zip(lines, offsets, strict=True)
    )
    told = " ".join(text for text, _ in lines)
    return Markup(
        '<g class="box {}"><title>{}</title><rect x="{:g}" y="{:g}" width="{}" height="{}" rx="5"/>{}</g>'
    ).format(box.kind, told, x, y, WIDTH, HEIGHT, words)


def _arrow(start: tuple[float, float], end: tuple[float, float], arrow: Arrow) -> Markup:
    """Level to level from the middle of a side, along a level from edge to edge, links as curves."""
    (x1, y1), (x2, y2) = start, end
    if y1 == y2:
        x1, x2 = x1 + WIDTH / 2, x2 - WIDTH / 2
        path = f"M{x1:g} {y1:g}H{x2:g}"
    elif arrow.kind == "link":
        x1, x2 = x1 + WIDTH / 2, x2 - WIDTH / 2
        bend = (x2 - x1) / 2
        path = f"M{x1:g} {y1:g}C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2:g} {y2:g}"
    else:
        down = 1 if y2 > y1 else -1
        y1, y2 = y1 + down * HEIGHT / 2, y2 - down * HEIGHT / 2
        path = f"M{x1:g} {y1:g}L{x2:g} {y2:g}"
    line = Markup('<path class="{}" d="{}"/>').format(arrow.kind, path)
    if not arrow.label:
        return line
    place = ((x1 + x2) / 2, (y1 + y2) / 2 - 5)
    return line + Markup('<text class="joint" x="{:g}" y="{:g}">{}</text>').format(*place, arrow.label)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _kernel(kernel: int) -> str:
    return f"{kernel}×{kernel}"


def _hourglass(genome: Hourglass) -> Diagram:
    depth = genome.depth
    boxes = [Box(0, 0, f"z, {genome.input.channels}", genome.input.kind, "end")]
    for index in range(depth):
        made = f"{_kernel(genome.kernel_down[index])} {genome.downsample}"
        boxes.append(Box(0.5 * (index + 1), index + 1, f"{genome.channels_down[index]}", made))
    for index in reversed(range(depth)):
        made = f"{_kernel(genome.kernel_up[index])} {genome.upsample[index]}"
        boxes.append(Box(depth + 1 - 0.5 * index, index, f"{genome.channels_up[index]}", made))
    boxes.append(Box(depth + 2, 0, "picture", kind="end"))
    arrows = _chain(len(boxes))
    for index in range(depth):
        if genome.channels_skip[index]:
            merged = genome.merge == "add"
            label = "add" if merged else f"skip {genome.channels_skip[index]}"
            arrows.append(Arrow(index, 2 * depth - index, f"{label}, {_kernel(genome.kernel_skip[index])}", "skip"))
    return Diagram(boxes, arrows)


def _linked(genome: Linked) -> Diagram:
    depth, width = genome.depth, str(genome.channels)
    boxes = [Box(0, 0, f"z, {genome.input.channels}", genome.input.kind, "end")]
    boxes += [Box(0.5 * (index + 1), index + 1, width, "3×3 stride") for index in range(depth)]
    boxes += [Box(depth + 1 - 0.5 * index, index, width, str(genome.upsample)) for index in reversed(range(depth))]
    boxes.append(Box(depth + 2, 0, "picture", kind="end"))
    arrows = _chain(len(boxes))
    for level, row in enumerate(genome.links):
        for source, bit in enumerate(row):
            if bit:  # source 0 is z, source j what the encoder passes from level j - 1 on
                arrows.append(Arrow(source, 2 * depth - level, kind="skip" if source == level else "link"))
    return Diagram(boxes, arrows)


def _unet(genome: UNet) -> Diagram:
    depth = genome.depth + genome.plain_depth
    widths = [genome.width * 2 ** min(level, genome.depth) for level in range(depth + 1)]
    boxes = [Box(0, 0, f"z, {genome.input.channels}", genome.input.kind, "end")]
    boxes += [Box(1 + 0.5 * level, level, str(width), "2 × 3×3") for level, width in enumerate(widths)]
    boxes += [
        Box(depth + 2 - 0.5 * level, level, str(widths[level]), str(genome.upsample))
        for level in reversed(range(depth))
    ]
    boxes.append(Box(depth + 3, 0, "picture", kind="end"))
    skips = [
        Arrow(1 + level, 1 + depth + depth - level, f"skip {widths[level]}", "skip") for level in reversed(range(depth))
    ]
    return Diagram(boxes, _chain(len(boxes)) + skips)


def _resnet(genome: ResNet) -> Diagram:
    boxes = [
        Box(0, 0, f"z, {genome.input.channels}", genome.input.kind, "end"),
        Box(1, 0, str(genome.channels), "3×3"),
        Box(2.6, 0, f"{genome.blocks} × {genome.channels}", "residual"),
        Box(4.2, 0, str(genome.channels), "3×3"),
        Box(5.2, 0, "picture", kind="end"),
    ]
    return Diagram(boxes, _chain(len(boxes)))


def _pyramid(genome: Pyramid) -> Diagram:
    last = genome.scales - 1
    entries = [
        Box(0.6 * (last - scale), scale, f"z, {genome.input.channels}", "averaged", "end") for scale in _down(last)
    ]
    merged = [
        Box(1 + 0.6 * (last - scale), scale, str(genome.channels * (last - scale + 1)), "3×3, nearest")
        for scale in _down(last)
    ]
    boxes = entries + merged + [Box(2 + 0.6 * last, 0, "picture", kind="end")]
    count = genome.scales
    arrows = [Arrow(place, count + place) for place in range(count)]
    arrows += [Arrow(count + place, count + place + 1) for place in range(count)]
    return Diagram(boxes, arrows)


def _down(last: int) -> range:
    return range(last, -1, -1)


def _decoder(genome: Decoder) -> Diagram:
    depth, made = genome.depth, f"{_kernel(genome.kernel)} {genome.upsample}"
    boxes = [Box(0, depth, f"z, {genome.input.channels}", genome.input.kind, "end")]
    boxes += [Box(0.7 * (depth - level), level, str(genome.channels), made) for level in reversed(range(depth))]
    boxes += [Box(0.7 * depth + 1, 0, str(genome.channels), _kernel(genome.kernel))]
    boxes.append(Box(0.7 * depth + 2, 0, "picture", kind="end"))
    return Diagram(boxes, _chain(len(boxes)))


def _chain(count: int) -> list[Arrow]:
    return [Arrow(place, place + 1) for place in range(count - 1)]


DIAGRAMS: dict[str, Callable[[Any], Diagram]] = {
    "hourglass": _hourglass,
    "linked": _linked,
    "unet": _unet,
    "resnet": _resnet,
    "pyramid": _pyramid,
    "decoder": _decoder,
}

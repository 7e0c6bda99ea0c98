"""One network of each family, at any width."""

from dipsearch.genome import Genome, load_genome, parse_genome


def network(family: str, width: int) -> Genome:
    """The paper's network of a family with `width` channels where it is widest at full resolution.

    `two-level` is a small hourglass without skips, of the kind that searches find.
    """
    if family == "two-level":
        return parse_genome(
            {"family": "hourglass", "depth": 2, "channels_down": width, "channels_up": width, "channels_skip": 0}
        )
    name, changes = PUBLISHED[family](width)
    return parse_genome(load_genome(name).data() | changes)


PUBLISHED = {
    "hourglass": lambda width: ("dip-denoise", {"channels_down": width, "channels_up": width}),
    "unet": lambda width: ("dip-unet", {"width": width // 4}),
    "resnet": lambda width: ("dip-resnet", {"channels": width // 2}),
    "pyramid": lambda width: ("dip-texture", {"channels": width // 8}),
}
FAMILIES = (*PUBLISHED, "two-level")

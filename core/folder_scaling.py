"""How values of more than 8 bits become bytes: one rule for all images of a folder, so that they stay comparable."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property

import numpy as np

from core.folder_files import FileFacts
from core.image_decoding import Scale

#: The depths that grey values in files of 16 or 32 bits are taken to have: the smallest that holds all of a folder.
DEPTHS = (8, 10, 12, 14, *range(16, 33))
#: By this share of their range floating-point values may exceed it, as resampling makes them; they are clipped.
_OVERSHOOT = 0.05
_LEAST_OF_255 = 16.0  # values of 0 .. 255 reach this somewhere in a folder
_LEAST_COLOUR = 16.0  # of 255: where no colour of a folder reaches it, at most 12 of 16 bits are used
_DARK_COLOUR = 128.0  # and here at most 15, or the images are dark


class FolderScaling:
    """The scaling of one folder's images, and what is wrong with values that it does not fit."""

    def __init__(self, deciding: Collection[FileFacts]) -> None:
        """Keep what the images that decide are."""
        self._deciding = deciding

    @cached_property
    def scale(self) -> Scale:
        """The scale of images that do not declare their bits.

        A file does not say how many of its 16 bits are used (TIFF's tags of the largest sample must not change how an image
        looks, says its standard), and single images may be dark; so all of a folder decide.
        """
        top = max((f.high for f in self._deciding if f.values == "integers" and not f.bits), default=0.0)
        bits = next((bits for bits in DEPTHS if top < 2**bits), DEPTHS[-1]) if top > 0 else 16
        return Scale(bits, 1 if self._top_float <= 1 + _OVERSHOOT else 255)

    @cached_property
    def ranges(self) -> dict[str, str]:
        """Kind of values of more than 8 bits -> the range that they are scaled from, as far as the folder decides it."""
        kinds = {facts.values for facts in self._deciding if not facts.bits}
        found = {"grey values": ("integers", 2**self.scale.bits - 1), "floating-point values": ("floats", self.scale.float_top)}
        return {name: f"0..{top}" for name, (kind, top) in found.items() if kind in kinds}

    def of(self, facts: FileFacts) -> Scale:
        """How one image is scaled: by the bits that it declares, else as the folder."""
        return Scale(facts.bits, self.scale.float_top) if facts.bits else self.scale

    def rule(self, facts: FileFacts) -> str:
        """The name of an image's scaling, where it is none of the first version's; it is a part of the folder's identity."""
        if facts.values == "integers" and self.of(facts).bits != 16:
            return f"integers of {self.of(facts).bits} bits"
        return "floats to 255" if facts.values == "floats" and self.scale.float_top != 1 else ""

    def fault(self, facts: FileFacts) -> str:
        """Why an image's values cannot be scaled; else nothing."""
        low, high, top = facts.low, facts.high, self.scale.float_top
        if facts.values == "integers" and low < 0:
            return f"negative values, {low:.0f} to {high:.0f}: shift them to 0 and above"
        if facts.values == "floats":
            if not np.isfinite(high):
                return "floating-point values that are not finite"
            too_small = top == 255 and 1 + _OVERSHOOT < high < _LEAST_OF_255 and self._top_float < _LEAST_OF_255
            if too_small or not (-_OVERSHOOT * top <= low and high <= (1 + _OVERSHOOT) * top):
                return f"floating-point values from {low:.4g} to {high:.4g}: scale them to 0..1 or 0..255"
        if facts.values == "colours" and self._top_colour < _LEAST_COLOUR:
            return "colours of 16 bits that use 12 or fewer: scale them to all 16, or to 8"
        return ""

    def darkness(self, facts: FileFacts) -> str:
        """Why an image becomes much darker than it may be meant; else nothing."""
        if facts.values == "floats" and self.scale.float_top == 255 and 0 < facts.high <= 1 + _OVERSHOOT:
            return "their floating-point values end at 1, others of the folder at 255"
        if facts.values == "colours" and _LEAST_COLOUR <= self._top_colour < _DARK_COLOUR:
            return "no colour of 16 bits is larger than half: they may use fewer bits"
        return ""

    @cached_property
    def _top_float(self) -> float:
        return max((f.high for f in self._deciding if f.values == "floats" and np.isfinite(f.high)), default=0.0)

    @cached_property
    def _top_colour(self) -> float:
        return max((f.high for f in self._deciding if f.values == "colours"), default=255.0)

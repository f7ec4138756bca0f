"""How hidden states are written on the way: names and numbers; see wire_form.py."""

from enum import IntEnum


class Codec(IntEnum):
    """How numbers are written."""

    RAW = 0
    """As the hops compute them: nothing is lost."""
    INT8 = 1
    """Blocks of 64 numbers of eight bits, a scale each."""


CODEC_OF_NAME = {"lossless": Codec.RAW, "int8": Codec.INT8}
"""Words for people."""

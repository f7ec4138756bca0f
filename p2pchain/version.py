"""Which version of the program this is, from the installed package."""

from importlib.metadata import version

VERSION = version("p2pchain")

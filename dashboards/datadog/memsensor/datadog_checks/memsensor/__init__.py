"""The memsensor check for the Datadog Agent."""

from .__about__ import __version__
from .check import MemsensorCheck

__all__ = ['MemsensorCheck', '__version__']

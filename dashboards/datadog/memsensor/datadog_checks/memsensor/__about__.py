"""The version of the check; it moves apart from that of memsensor."""

__version__ = '0.1.0'

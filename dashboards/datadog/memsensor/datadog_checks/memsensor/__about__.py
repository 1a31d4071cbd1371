"""The version of the check. It is independent of the version of memsensor."""

__version__ = '0.1.0'

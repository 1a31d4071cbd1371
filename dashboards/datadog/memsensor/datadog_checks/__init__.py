# The packages of other integrations share this name.
__path__ = __import__('pkgutil').extend_path(__path__, __name__)

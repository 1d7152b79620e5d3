"""The version of the package, in a module that imports nothing: the build reads it as text."""

__version__ = "0.1.0"

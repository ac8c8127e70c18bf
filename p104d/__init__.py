"""p104d: a dependable inference machine out of ex-mining NVIDIA cards."""

__version__ = "0.1.0"

"""The tests' CUDA driver library is built once a session."""

from host_library import host_library

__all__ = ["host_library"]

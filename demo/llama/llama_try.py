"""Whether llama.cpp computes on this processor: ``python llama_try.py MODEL.gguf`` loads a model, asks for two tokens.

A process of its own: a processor that lacks instructions which the package was built for ends it.
"""

from __future__ import annotations

import sys

import xllamacpp
from llama_server import parse  # type: ignore[import-not-found]  # beside this file, which is run as a script

PROMPT = {"prompt": "hello", "max_tokens": 2, "ignore_eos": True}


def main(model: str) -> int:
    """0 if it answers."""
    options = ["--model", model, "--host", "127.0.0.1", "--port", "0", "--ctx-size", "256", "--no-warmup"]
    server = xllamacpp.Server(parse(options, xllamacpp))
    answer = server.handle_completions(PROMPT)
    if answer.get("usage", {}).get("completion_tokens") == PROMPT["max_tokens"]:
        return 0
    print(f"llama.cpp answers with {answer}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: llama_try.py MODEL.gguf")
    sys.exit(main(sys.argv[1]))

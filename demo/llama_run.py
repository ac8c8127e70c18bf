"""Run real prompts through a real llama.cpp on the processor, over its HTTP endpoint.

    python llama_run.py --model tiny.gguf --input prompts.jsonl --output answers.jsonl

llama.cpp's own server (the ``xllamacpp`` package embeds it) is started inside this process; each line of the input
(``{"custom_id", "prompt"}``) becomes one request, and each answer one line of the output. llama.cpp prints its
timings as it always does: that is where ``measure: [llama.cpp]`` reads the tokens per second.
"""

from __future__ import annotations

import argparse
import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import xllamacpp

#: Loading 2 MB takes well under a second; a minute is for a machine that is busy with other things.
READY_WITHIN_SECONDS = 60.0
REQUEST_TIMEOUT_SECONDS = 60.0


def start_server(model: str, context: int, parallel: int) -> xllamacpp.Server:
    """llama.cpp's HTTP server in a thread of this process, on a free local port, without a GPU layer."""
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = context
    params.n_parallel = parallel
    params.n_gpu_layers = 0
    # One thread: several wait for each other at every layer, which takes for ever on a host with other jobs.
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.warmup = False
    params.endpoint_metrics = True
    return xllamacpp.Server(params)


def wait_until_ready(address: str) -> None:
    """Return when ``/health`` answers 200; it answers 503 while the model loads."""
    deadline = time.monotonic() + READY_WITHIN_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=REQUEST_TIMEOUT_SECONDS) as answer:  # noqa: S310
                if answer.status == 200:
                    return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def complete(address: str, prompt: str, tokens: int) -> dict[str, Any]:
    """One ``/completion`` request; the answer holds the text and llama.cpp's ``timings``."""
    body = {"prompt": prompt, "n_predict": tokens, "temperature": 0.8, "seed": 104, "ignore_eos": True}
    request = urllib.request.Request(  # noqa: S310 (an address of our own making)
        f"{address}/completion", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_SECONDS) as answer:  # noqa: S310
        result: dict[str, Any] = json.load(answer)
        return result


def read_requests(path: str) -> Iterator[dict[str, str]]:
    """The requests of the input file, one JSON object a line; blank lines are skipped."""
    with open(path, encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines if line.strip())


def run(args: argparse.Namespace) -> None:
    """Answer every request of the input."""
    server = start_server(args.model, args.context, args.parallel)
    address = server.listening_address
    wait_until_ready(address)
    total = 0
    started = time.monotonic()
    with open(args.output, "w", encoding="utf-8") as output:
        for request in read_requests(args.input):
            answer = complete(address, request["prompt"], args.tokens)
            total += answer["timings"]["predicted_n"]
            line = {"custom_id": request["custom_id"], "content": answer["content"], "timings": answer["timings"]}
            output.write(json.dumps(line) + "\n")
            print(f"{request['custom_id']}: {answer['timings']['predicted_n']} tokens", flush=True)
    print(f"{total} tokens in {time.monotonic() - started:.2f} s, answers in {args.output}", flush=True)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description="Run prompts through llama.cpp on the processor.")
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--input", required=True, help='JSON lines: {"custom_id", "prompt"}')
    parser.add_argument("--output", required=True, help="where the answers go, one line a request")
    parser.add_argument("--tokens", type=int, default=384, help="tokens to generate per prompt")
    parser.add_argument("--context", type=int, default=1024, help="context per request, in tokens")
    parser.add_argument("--parallel", type=int, default=1, help="requests served at once")
    run(parser.parse_args())


if __name__ == "__main__":
    main()

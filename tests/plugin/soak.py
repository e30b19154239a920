#!/usr/bin/env python3
"""A stock llama-server for 200 requests of mixed lengths from two clients, with context shifts. Not part of ctest.

tests/plugin/soak.py --plugin build/bin/libggml-gtq.so --llama build/llama.cpp/bin --model M --profile M.gtq.gguf
"""
import concurrent.futures
import os
import random
import sys
import threading

from server import Server, arguments

REQUESTS = 200
parser = arguments(__doc__)
parser.add_argument("--kv", default="k3v3")
args = parser.parse_args()
here = os.path.dirname(os.path.abspath(__file__))
with open(here + "/../../data/demo.txt") as file:
    TEXT = file.read()

rss = {}
done = 0
lock = threading.Lock()
# -cram: llama-server's own prompt cache, small enough to be full after a few requests.
options = ["-c", "1024", "-np", "4", "--context-shift", "-cram", "64"]
with Server(args, args.kv, options) as server:
    def run(number):
        global done
        dice = random.Random(number)
        start, length = dice.randrange(len(TEXT) - 800), dice.randrange(20, 600)
        n_predict = dice.choice((8, 30, 60, 150))
        reply = server.complete(TEXT[start:start + length], n_predict)
        with lock:
            done += 1
            if done % 50 == 0:
                rss[done] = server.rss_mib()
                print(f"{done} requests: RSS {rss[done]:.1f} MiB", flush=True)
        return reply["tokens_predicted"] == n_predict

    with concurrent.futures.ThreadPoolExecutor(2) as clients:
        complete = list(clients.map(run, range(REQUESTS)))
    log = server.log()

shifts = log.count("slot context shift")
errors = [line for line in log.splitlines() if "error" in line.lower() or " E " in line[:24]]
print(f"{sum(complete)} of {REQUESTS} complete, {shifts} context shifts, {len(errors)} errors in the log")
print("\n".join(errors[:10]), end="")
grown = rss[REQUESTS] - rss[50]
if not all(complete) or errors or shifts == 0 or grown > 8 + 0.03 * rss[50]:
    sys.exit(f"failed: RSS grew by {grown:.1f} MiB")

"""Kinds of models that gtq does not pack, or only in part: llama.cpp goes on, one sentence says so."""
import os
import subprocess
import sys
import tempfile

import tiny_models
from server import arguments, environment, run_completion, same_start

parser = arguments(__doc__)
parser.add_argument("--gtq", required=True)
args = parser.parse_args()
if not os.path.exists(args.profile):
    sys.exit(77)


def own_lines(stderr):
    return [line for line in stderr.splitlines() if line.startswith("gtq: ")]


def complete(model, env):
    done = run_completion(args, ["-m", model, "-p", "Hello", "-n", "8"], env, n_bytes=9)
    return done.returncode, done.stdout, own_lines(done.stderr)


def check(condition, *what):
    if not condition:
        sys.exit(f"failed: {what}")


def says(lines, *sentences):
    return len(lines) == len(sentences) and all(l.startswith("gtq: " + s) for l, s in zip(lines, sentences))


STATE, OTHER = "cache_r_l0 holds no keys or values", "cache_k_l0 (f16"
with tempfile.TemporaryDirectory() as folder:
    for make, sentence in ((tiny_models.recurrent, STATE), (tiny_models.hybrid, STATE), (tiny_models.latent, OTHER),
                           (tiny_models.several_positions, OTHER)):
        name = make.__name__
        model, profile = f"{folder}/{name}.gguf", f"{folder}/{name}.gtq.gguf"
        make(model)
        stock = complete(model, os.environ)
        status, text, lines = complete(model, environment(args, "k4v4"))  # with the profile of another model
        check(status == 0 and same_start(text, stock[1]), name, status, text, stock)
        check(lines and lines[0].startswith("gtq: " + sentence), name, lines)

        calibrate = subprocess.run([args.gtq, "calibrate", "-m", model, "-o", profile, "-t", "1"], text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        status, lines = calibrate.returncode, own_lines(calibrate.stderr)
        if make is not tiny_models.hybrid:
            check(0 < status < 128 and len(lines) == 1, name, status, lines)
            continue
        check(status == 0, name, lines)
        status, text, lines = complete(model, dict(environment(args, "k6v6"), GTQ_PROFILE=profile))
        check(status == 0 and says(sorted(lines), STATE, "recipe gtq k6v6"), name, status, lines)

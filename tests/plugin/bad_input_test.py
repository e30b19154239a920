"""What defeats the plugin: stock llama-completion goes on with its own cache, or stops below one sentence of ours."""
import os
import resource
import subprocess
import sys
import tempfile

from server import arguments, environment

parser = arguments(__doc__)
parser.add_argument("--other-ggml", required=True, help="library to preload that claims another ggml version")
args = parser.parse_args()
if not os.path.exists(args.model):
    sys.exit(77)
failures = 0


def expect(name, sentences, goes_on, options=(), limit=None, **variables):
    """Runs with these options. All `gtq:` lines must begin with the sentences, in this order."""
    global failures
    command = [args.llama + "/llama-completion", "-m", args.model, "-p", "Hello", "-n", "4", "-no-cnv", "--temp", "0",
               "-t", "1", *options]
    limit_memory = (lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))) if limit else None
    run = subprocess.run(command, env={**environment(args, "k3v3"), **variables}, stdin=subprocess.DEVNULL, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=limit_memory)
    lines = [line for line in run.stderr.splitlines() if line.startswith("gtq: ")]
    said = len(lines) == len(sentences) and all(l.startswith("gtq: " + s) for l, s in zip(lines, sentences))
    if not said or run.returncode != (0 if goes_on else 1):
        failures += 1
        print(f"{name}: exit status {run.returncode}, said {lines}\n{run.stderr[-1000:]}")


def with_fingerprint(profile, path):
    """A copy of the profile that belongs to another model of the same shape."""
    data = bytearray(profile)
    at = data.index(b"gtq.fingerprint") + len("gtq.fingerprint") + 4
    data[at] ^= 1
    data[48:56] = bytes(8)
    checksum = 0xcbf29ce484222325
    for byte in data:
        checksum = (checksum ^ byte) * 0x100000001b3 & 0xffffffffffffffff
    data[48:56] = checksum.to_bytes(8, "little")
    with open(path, "wb") as file:
        file.write(data)


ACTIVE = "recipe gtq k3v3"
OWN_MEMORY = "the cache is in llama.cpp's own memory and not packed; drop -nkvo and -ngl"
FLASH = "the packed cache needs flash attention; drop -fa off and -ngl"
NOT_YET = "no profile of this model yet"
ROTATES = "this run rotates keys differently than the profile"
expect("nothing wrong", [ACTIVE], True)
expect("-nkvo", [OWN_MEMORY], True, ["-nkvo"])
expect("-ngl 0", [OWN_MEMORY], True, ["-ngl", "0"])
expect("-ngl 10", [ACTIVE, OWN_MEMORY, FLASH], False, ["-ngl", "10"])
expect("-dev none", [], True, ["-dev", "none"])
expect("-ctk", ["cache_k_l0 (q8_0"], True, ["-ctk", "q8_0"])
expect("-ctv", ["cache_v_l0 (q8_0"], True, ["-ctv", "q8_0"])
expect("-fa off", [ACTIVE, FLASH], False, ["-fa", "off"])
expect("base", [ACTIVE, ROTATES], False, ["--rope-freq-base", "5000"])
expect("yarn", [ACTIVE, ROTATES], False, ["--rope-scaling", "yarn", "--rope-scale", "4", "-c", "2048"])
expect("memory", ["no memory for a packed cache of"], False, ["-c", "2000000"], limit=4 << 30)
expect("ggml version", ["this plugin was built for ggml"], True, LD_PRELOAD=args.other_ggml)
expect("simulated without a profile", ["GTQ_PROFILE is not set, which GTQ_RECIPE=tq-mse needs"], True,
       GTQ_RECIPE="tq-mse", GTQ_PROFILE="")
expect("no such file", ["cannot open"], True, GTQ_PROFILE="/nonexistent")
expect("a model as profile", [""], True, GTQ_PROFILE=args.model)
expect("budget", ["a KV budget is written"], True, GTQ_KV="k9v1")
expect("recent", ["a KV budget is written"], True, GTQ_KV="k3v3r100")
for budget in ("k3.5v3", "k3v3r64"):
    expect(budget, ["block-gtq and tq-mse take whole bits, the same for all tokens"], True, GTQ_RECIPE="tq-mse",
           GTQ_KV=budget)
expect("recipe", ["GTQ_RECIPE=best is unknown"], True, GTQ_RECIPE="best")
with open(args.profile, "rb") as file:
    profile = file.read()
with tempfile.TemporaryDirectory() as folder:
    # Without a profile the model is known at the first graph, not when the cache is made.
    alone = {"GTQ_PROFILE": "", "XDG_CACHE_HOME": folder}
    expect("alone", [NOT_YET], True, **alone)
    expect("alone, -nkvo", [OWN_MEMORY], True, ["-nkvo"], **alone)
    expect("alone, -ngl 0", [OWN_MEMORY], True, ["-ngl", "0"], **alone)
    expect("alone, -ngl 10", [OWN_MEMORY, FLASH], False, ["-ngl", "10"], **alone)
    expect("alone, -ctk", ["cache_k_l0 (q8_0"], True, ["-ctk", "q8_0"], **alone)
    expect("alone, -fa off", [FLASH], False, ["-fa", "off"], **alone)
    expect("alone, base", [NOT_YET], True, ["--rope-freq-base", "5000"], **alone)
    expect("alone, memory", ["no address space for a cache of 43948 MiB in 16 bits"], False, ["-c", "2000000"], limit=4 << 30, **alone)
    expect("alone, f16", [], True, GTQ_RECIPE="f16", **alone)
    with_fingerprint(profile, folder + "/other")
    expect("another model", [ACTIVE, "the profile in GTQ_PROFILE was made for another model"], False,
           GTQ_PROFILE=folder + "/other")
    with open(folder + "/cut", "wb") as file:
        file.write(profile[:1000])
    expect("cut profile", [""], True, GTQ_PROFILE=folder + "/cut")
sys.exit(f"{failures} failed" if failures else 0)

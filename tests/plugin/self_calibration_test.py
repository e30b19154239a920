"""GGML_BACKEND_PATH alone: stock programs stage the cache in 16 bits, calibrate on their first tokens, pack, and find
the profile again."""
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile

import tiny_models
from server import Server, arguments, environment, run_completion, same_start

parser = arguments(__doc__)
parser.add_argument("--text", required=True)
parser.add_argument("--case", required=True, choices=["completion", "server", "faster", "memory", "quality", "models"])
args = parser.parse_args()
if not os.path.exists(args.model):
    sys.exit(77)
with open(args.text) as file:
    TEXT = file.read()
ENOUGH, SHORT = TEXT[:4000], TEXT[4000:5000]  # about 930 tokens and 230; the cache is calibrated on 512
NOT_YET, CALIBRATED, PACKED = "no profile of this model yet", "calibrated on the first", "recipe gtq k4v4, 4.125 true bits"


def check(condition, *what):
    if not condition:
        sys.exit(f"failed: {what}")


def says(log, *sentences):
    """All lines of the plugin, in this order. llama-server puts its own text before a line at times."""
    lines = re.findall(r"gtq: (.*)", log)
    check(len(lines) == len(sentences) and all(l.startswith(s) for l, s in zip(lines, sentences)), lines, sentences)


def alone(folder):
    return {"GTQ_PROFILE": "", "XDG_CACHE_HOME": folder}


def profiles(folder):
    return [f"{folder}/gtq/{name}" for name in os.listdir(folder + "/gtq")] if os.path.isdir(folder + "/gtq") else []


def keep(folder, name):
    """The profile of gtq calibrate, over 2,048 tokens. Its path."""
    os.makedirs(folder + "/gtq", exist_ok=True)
    path = f"{folder}/gtq/{name}.gtq.gguf"
    shutil.copy(args.profile, path)
    return path


def complete(prompt, folder, recipe="gtq", before=lambda: None, options=()):
    env = {**environment(args, "k4v4", recipe), **alone(folder)}
    run = ["-m", args.model, "-p", prompt, "-n", "32", "--no-display-prompt", *options]
    done = run_completion(args, run, env, 60, before)
    check(done.returncode == 0, done.returncode, done.stderr[-2000:])
    return done


def remove_profiles(folder):
    for path in profiles(folder):
        os.remove(path)


def completion():
    with tempfile.TemporaryDirectory() as folder:
        short, stock = complete(SHORT, folder), complete(SHORT, folder, "f16")
        says(short.stderr, NOT_YET)
        says(stock.stderr)
        check(same_start(short.stdout, stock.stdout) and not profiles(folder), short.stdout, stock.stdout)

        first = complete(ENOUGH, folder, before=lambda: remove_profiles(folder))
        says(first.stderr, NOT_YET, CALIBRATED + " 512 tokens; the profile is kept in " + folder, PACKED)
        check(len(profiles(folder)) == 1, profiles(folder))
        second = complete(ENOUGH, folder)
        says(second.stderr, "profile " + profiles(folder)[0], PACKED)
        words = first.stdout.decode().split(), second.stdout.decode().split()
        check(all(len(w) > 8 for w in words), words)

        with open(profiles(folder)[0], "r+b") as file:  # a damaged profile is passed over and written again
            file.truncate(1000)
        says(complete(ENOUGH, folder).stderr, NOT_YET, CALIBRATED, PACKED)
        says(complete(SHORT, folder).stderr, "profile", PACKED)
        longer = keep(folder, "longer")
        says(complete(SHORT, folder).stderr, "profile " + longer, PACKED)
    with tempfile.TemporaryDirectory() as folder:  # each rotation has a profile of its own
        base = ["--rope-freq-base", "50000"]
        for options in (), base:
            complete(ENOUGH, folder, options=options)
        check(len(profiles(folder)) == 2, profiles(folder))
        for options in (), base:
            says(complete(SHORT, folder, options=options).stderr, "profile", PACKED)
    says(complete(ENOUGH, "/dev/null").stderr, NOT_YET, CALIBRATED + " 512 tokens; the profile serves this run only",
         PACKED)


def server():
    """Two slots. What was saved before the cache was packed is restored afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["-c", "4096", "-np", "2", "--slot-save-path", folder]
        with Server(args, "k4v4", options, **alone(folder)) as running:
            before = running.complete(SHORT, 48, id_slot=0)["content"]
            status, reply = running.request("/slots/0?action=save", {"filename": "slot"})
            check(status == 200, reply)
            says(running.log(), NOT_YET)
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                texts = list(pool.map(lambda start: running.complete(TEXT[start:start + 2000], 48)["content"],
                                      (0, 5000)))
            says(running.log(), NOT_YET, CALIBRATED, PACKED)
            status, reply = running.request("/slots/1?action=restore", {"filename": "slot"})
            check(status == 200, reply, running.log()[-2000:])
            restored = running.complete(SHORT, 48, id_slot=1)
            check(restored["timings"]["prompt_n"] <= 4, "the restored cache was not used")
            check("error" not in running.log().lower(), running.log()[-2000:])
        for text in (*texts, before, restored["content"]):
            check(len(text.split()) > 8, text)
        check(before[:20] == restored["content"][:20], before, restored["content"])
        with Server(args, "k4v4", options, **alone(folder)) as running:
            status, reply = running.request("/slots/1?action=restore", {"filename": "slot"})
            check(status == 200, reply, running.log()[-2000:])
            again = running.complete(SHORT, 48, id_slot=1)
            check(again["timings"]["prompt_n"] <= 4 and len(again["content"].split()) > 8, again)
            says(running.log(), "profile", PACKED)


def faster():
    """Another program keeps a profile while this one calibrates: it serves here as well."""
    with tempfile.TemporaryDirectory() as folder:
        with Server(args, "k4v4", ["-c", "2048", "-np", "1"], **alone(folder)) as running:
            running.complete(SHORT, 8)
            says(running.log(), NOT_YET)
            other = keep(folder, "other")
            running.complete(ENOUGH, 8)
            says(running.log(), NOT_YET, "profile " + other, PACKED)
        check(profiles(folder) == [other], profiles(folder))


def memory():
    """A cache of 32,768 cells takes 720 MiB in f16. Staged, only what is used of it is resident, and after packing
    it is given back: what is left is that of a run with a profile."""
    options = ["-c", "32768", "-np", "1", "--cache-ram", "0", "-b", "256", "-ub", "256"]

    def resident(**variables):
        sizes = []
        with Server(args, "k4v4", options, **variables) as running:
            for prompt in ("Once", TEXT[:1600], TEXT[:4000]):  # about 380 tokens are staged
                running.complete(prompt, 1)
                sizes.append(running.rss_mib())
            check(running.log().count(PACKED) == 1, running.log()[-2000:])
        return sizes

    with tempfile.TemporaryDirectory() as folder:
        staged, packed = resident(**alone(folder)), resident()
    print("resident MiB:", [round(x) for x in staged], "without a profile,", [round(x) for x in packed], "with one")
    check(staged[1] < packed[1] + 60, "staged rows", staged, packed)
    check(staged[2] < packed[2] + 10, "staged rows were not given back", staged, packed)


def quality():
    with tempfile.TemporaryDirectory() as folder:
        def divergence(**variables):
            env = {**environment(args, "k3v3"), **variables}
            command = [args.llama + "/llama-perplexity", "-m", args.model, "-f", args.text, "-c", "512", "--chunks", "4",
                       "-b", "512", "-t", "1", "-fa", "on", "--kl-divergence-base", folder + "/base"]
            if variables.get("GTQ_RECIPE") != "f16":
                command.append("--kl-divergence")
            log = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True, check=True).stdout
            found = re.search(r"Mean +KLD: +([0-9.]+)", log)
            return float(found[1]) if found else None

        divergence(GTQ_RECIPE="f16")
        calibrated = divergence()
        first, second = divergence(**alone(folder)), divergence(**alone(folder))
    print(f"mean KLD {calibrated} with a profile of gtq calibrate, {first} while calibrating, {second} afterwards")
    check(0.5 * calibrated < second < 1.25 * calibrated, "quality of the profile")
    check(0.4 * second < first < 0.95 * second, "one chunk of four is exact")


def models():
    """Kinds of models that are packed in part or not at all: the text is that of llama.cpp, one sentence says why."""
    state = "cache_r_l0 holds no keys or values"
    for make, sentences in ((tiny_models.recurrent, [state]), (tiny_models.latent, ["this model keeps keys and values"]),
                            (tiny_models.several_positions, [NOT_YET, "the RoPE of this model"]),
                            (tiny_models.plain_norms, [NOT_YET, CALIBRATED, "recipe gtq k6v6"]),
                            (tiny_models.hybrid, [state, NOT_YET, CALIBRATED, "recipe gtq k6v6"])):
        with tempfile.TemporaryDirectory() as folder:
            model = folder + "/model.gguf"
            make(model)
            run = ["-m", model, "-p", TEXT[:600], "-n", "8", "-c", "1024"]
            stock = run_completion(args, run, os.environ, 600)
            ours = run_completion(args, run, {**environment(args, "k6v6"), **alone(folder)}, 600,
                                  before=lambda: remove_profiles(folder))
            check(ours.returncode == 0 and same_start(ours.stdout[:600], stock.stdout[:600]), ours.stderr[-2000:])
            says(ours.stderr, *sentences)
            if make is tiny_models.plain_norms:
                check("the profile serves this run only (this model has no small" in ours.stderr, ours.stderr[-2000:])
            check(len(profiles(folder)) == (make is tiny_models.hybrid), profiles(folder))


{"completion": completion, "server": server, "faster": faster, "memory": memory, "quality": quality, "models": models}[args.case]()

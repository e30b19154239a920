"""Stock llama-server and llama-completion on the packed cache: saved states, context shift, parallel requests."""
import concurrent.futures
import os
import sys
import tempfile

from server import Server, arguments, environment, run_completion, same_start

parser = arguments(__doc__)
parser.add_argument("--text", required=True)
parser.add_argument("--case", required=True, choices=["slots", "prompt-cache", "shift", "parallel"])
args = parser.parse_args()
if not os.path.exists(args.model):
    sys.exit(77)
with open(args.text) as file:
    TEXT = file.read()


def check(condition, message):
    if not condition:
        sys.exit("failed: " + message)


def check_text(text, n_words):
    letters = sum(c.isascii() and (c.isalnum() or c in " \n.,'\"") for c in text)
    check(len(text.split()) > n_words and letters > 0.9 * len(text), f"this is not text: {text!r}")


def slot(server, number, action, filename):
    return server.request(f"/slots/{number}?action={action}", {"filename": filename})


def save_and_restore(server, filename):
    """Text after a restore into the other slot = text without it."""
    server.complete(TEXT[:1000], 4, id_slot=0)
    check(slot(server, 0, "save", filename)[0] == 200, "slot save")
    expected = server.complete(TEXT[:1000], 64, id_slot=0)["content"]
    status, reply = slot(server, 1, "restore", filename)
    check(status == 200, f"slot restore: {reply}")
    restored = server.complete(TEXT[:1000], 64, id_slot=1)
    check(restored["timings"]["prompt_n"] <= 4, "the restored cache was not used")
    check(restored["content"] == expected, f"{restored['content']!r} is not {expected!r}")
    return expected


def refuse(server, filename, sentence, expected):
    """A state that does not fit is refused in words, and the server goes on as if nothing had happened."""
    status, reply = slot(server, 1, "restore", filename)
    check(status == 400, f"{filename} was not refused: {status} {reply}")
    check(sentence in server.log(), f"no sentence about {filename}")
    content = server.complete(TEXT[:1000], 64, id_slot=0)["content"]
    check(content == expected, f"slot 0 after a refusal: {content!r} is not {expected!r}")
    # Slot 1 computes its prompt anew, in other batches than slot 0 did, so sums may round otherwise.
    content, anew = (server.complete(TEXT[:1000], 64, id_slot=1, **more)["content"]
                     for more in ({}, {"cache_prompt": False}))
    check(content == anew, f"slot 1 after a refusal: {content!r} is not {anew!r}")


def slots():
    with tempfile.TemporaryDirectory() as folder:
        options = ["-c", "2048", "-np", "2", "--slot-save-path", folder]
        with Server(args, "k3v3", options, recipe="f16") as server:
            save_and_restore(server, "f16")
        with Server(args, "k3v3", options) as server:
            save_and_restore(server, "k3v3")
        with Server(args, "k3v3r128", options) as server:
            save_and_restore(server, "k3v3r128")
        with Server(args, "k4v4", options) as server:
            expected = save_and_restore(server, "k4v4")
            refuse(server, "f16", "gtq: this saved state was not written by gtq", expected)
            refuse(server, "k3v3", "gtq: this saved state was written with k3v3", expected)
            refuse(server, "k3v3r128", "gtq: this saved state was written with k6v6 (for all", expected)


def completion(budget, recipe, n_bytes, *options, before=lambda: None):
    return run_completion(args, ["-m", args.model, "-p", TEXT[:1000], "--no-display-prompt", *options],
                          environment(args, budget, recipe), n_bytes, before)


def prompt_cache():
    with tempfile.TemporaryDirectory() as folder:
        for recipe in ("f16", "gtq"):
            path = f"{folder}/{recipe}"
            session = ["-n", "64", "--prompt-cache", path]
            first = completion("k3v3", recipe, 100, *session, before=lambda: os.path.exists(path) and os.remove(path))
            second = completion("k3v3", recipe, 100, *session)
            check(first.returncode == 0 and second.returncode == 0, f"{recipe}: exit status")
            check("loaded a session" in second.stderr, f"{recipe}: the session was not loaded")
            check(same_start(first.stdout, second.stdout), f"{recipe}: {second.stdout!r} is not {first.stdout!r}")
        for recipe, budget, sentence in (("f16", "k3v3", "not written by gtq"), ("gtq", "k4v4", "written with k3v3"),
                                         ("gtq", "k3.25v3", "written with k3v3")):
            refused = completion(budget, "gtq", 0, "-n", "4", "--prompt-cache", f"{folder}/{recipe}")
            check(refused.returncode == 1, f"{recipe}: exit status {refused.returncode}")
            check(f"gtq: this saved state was {sentence}" in refused.stderr, refused.stderr[-2000:])


def shift():
    """Both programs shift more than once and go on to the end. What a small model writes after several shifts is often
    no text, from the f16 cache too; logits behind a shift are compared in cache_test.cc."""
    options = ["-c", "256", "--context-shift"]
    for budget in ("k6v6", "k4v4r64"):
        with Server(args, budget, options + ["-np", "1"]) as server:
            reply = server.complete(TEXT[:600], 400)
            check(reply["tokens_predicted"] == 400, "llama-server stopped early")
            check(server.log().count("slot context shift") >= 2, "llama-server did not shift")
            check("error" not in server.log().lower(), "an error in the log of llama-server")
        check_text(reply["content"][:350], 40)  # before the first shift
    run = completion("k6v6", "gtq", 1000, "-n", "400", *options)
    check(run.returncode == 0, "llama-completion failed: " + run.stderr[-2000:])
    check(len(run.stdout) >= 1000, f"llama-completion stopped early: {run.stdout!r}")


def parallel():
    """Four requests at once, with a stream for each slot and with one cache for all. Sums of a batch differ in the last
    bits with its size, in the f16 cache too, so texts need not be equal to those of single requests; the divergence
    over several sequences is compared in plugin_test.sh."""
    for budget, *options in (["k4v4"], ["k4v4", "-kvu"], ["k4v4r64"], ["k4v4r64", "-kvu"]):
        with Server(args, budget, ["-c", "2048", "-np", "4", *options]) as server:
            def run(start):
                return server.complete(TEXT[start:start + 300], 48)["content"]
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                texts = list(pool.map(run, (0, 500, 1000, 1500)))
            check("error" not in server.log().lower(), "an error in the log of llama-server")
        check(len(set(texts)) == 4, "two prompts gave the same text")
        for text in texts:
            check_text(text, 15)


{"slots": slots, "prompt-cache": prompt_cache, "shift": shift, "parallel": parallel}[args.case]()

"""A stock llama-server with the plugin, for tests and the soak run. Standard library only."""
import argparse
import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request


def arguments(description):
    parser = argparse.ArgumentParser(description=description)
    for name in ("plugin", "llama", "model", "profile"):
        parser.add_argument("--" + name, required=True)
    return parser


def environment(args, budget, recipe="gtq"):
    return dict(os.environ, GGML_BACKEND_PATH=args.plugin, GTQ_PROFILE=args.profile, GTQ_KV=budget, GTQ_RECIPE=recipe)


def run_completion(args, options, env, n_bytes, before=lambda: None):
    """llama-completion, greedy. It may exit before its log thread has written all of the text: run again until there
    are n_bytes, and compare texts with same_start()."""
    command = [args.llama + "/llama-completion", "-no-cnv", "--temp", "0", "-t", "1", "--ignore-eos", *options]
    for _ in range(30):
        before()
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)
        if done.returncode != 0 or len(done.stdout) >= n_bytes:
            break
    done.stderr = done.stderr.decode(errors="replace")
    return done


def same_start(a, b):
    n = min(len(a.rstrip()), len(b.rstrip()))
    return a[:n] == b[:n]


class Server:
    """with Server(args, "k3v3", ["-c", "512"]) as server: server.complete("Once", 16)"""

    def __init__(self, args, budget, options, recipe="gtq", **variables):
        with socket.socket() as probe:  # a port that is free now
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log_file = tempfile.TemporaryFile("w+")
        command = [args.llama + "/llama-server", "-m", args.model, "--port", str(self.port), "-t", "1", *options]
        self.process = subprocess.Popen(command, env={**environment(args, budget, recipe), **variables},
                                        stdin=subprocess.DEVNULL, stdout=self.log_file, stderr=subprocess.STDOUT)

    def __enter__(self):
        deadline = time.time() + 120
        while time.time() < deadline and self.process.poll() is None:
            try:
                if self.request("/health")[0] == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.1)
        print(self.log())
        self.__exit__()
        raise SystemExit("llama-server did not start")

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait()

    def log(self):
        self.log_file.seek(0)
        return self.log_file.read()

    def rss_mib(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

    def request(self, path, body=None):
        """(status, reply) of GET, or of POST when there is a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data,
                                         {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=300) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def complete(self, prompt, n_predict, **more):
        body = {"prompt": prompt, "n_predict": n_predict, "temperature": 0, "ignore_eos": True, **more}
        status, reply = self.request("/completion", body)
        if status != 200:
            print(self.log()[-3000:])
            raise SystemExit(f"completion failed: {reply}")
        return reply

#!/usr/bin/env python3
"""fp16 attention at the shapes of cuda_attention_bench: cuDNN and FlashAttention-2 through torch, and FlashInfer
where it is installed.

    cuda_peers.py [decode|prefill|all]

Graph replay over rotated caches of at least 1 GB together, median of 11 replays, head_dim 128.
"""
import argparse
import statistics

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

try:
    import flashinfer
except ImportError:
    flashinfer = None

REPLAYS = 11
ROTATED_BYTES = 1.1e9
HEAD_DIM = 128
PAGE = 64  # tokens, for FlashInfer
DECODE = [
    (16, 2, 1, 8192), (16, 2, 1, 32768), (16, 2, 1, 131072),
    (32, 8, 1, 8192), (32, 8, 1, 32768), (32, 8, 1, 131072),
    (32, 8, 8, 32768), (32, 8, 32, 32768),
    (128, 8, 1, 131072), (32, 32, 1, 32768), (16, 2, 1, 524288),
]
PREFILL = [(32, 8, 4096, 32768), (16, 2, 512, 32768)]
BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "fa2": SDPBackend.FLASH_ATTENTION}
FLASHINFER_BACKENDS = ("fa2", "fa3", "plain")  # plain: without tensor cores


def time_graph(call, n):
    """Median microseconds of one of n calls."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for i in range(n):
            call(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(n):
            call(i)
    times = []
    for _ in range(REPLAYS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / n)
    return statistics.median(times)


def random_half(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.float16)


def cache_bytes(n_kv, batch, kv_len):
    return 4 * batch * n_kv * kv_len * HEAD_DIM


def report_decode(backend, shape, call, n):
    n_q, n_kv, batch, kv_len = shape
    us = time_graph(call, n)
    n_bytes = cache_bytes(n_kv, batch, kv_len)
    print(f"{backend:16} f16  {n_q:3}/{n_kv:<2} B{batch:<2} {kv_len // 1024:4}K  {us:8.2f} us  "
          f"{n_bytes / us * 1e-6:5.2f} TB/s", flush=True)


def n_rotated(n_kv, batch, kv_len):
    return max(2, min(64, int(ROTATED_BYTES / cache_bytes(n_kv, batch, kv_len)) + 1))


def decode(backend, n_q, n_kv, batch, kv_len):
    n = n_rotated(n_kv, batch, kv_len)
    caches = [[random_half(batch, n_kv, kv_len, HEAD_DIM) for _ in range(2)] for _ in range(n)]
    q = random_half(batch, n_q, 1, HEAD_DIM)
    if backend == "fa2":
        # One query row: the heads of a group become rows, which this kernel can use and GQA expansion cannot.
        q = q.view(batch, n_kv, n_q // n_kv, HEAD_DIM)
        gqa = False
    else:
        gqa = n_q != n_kv
    with sdpa_kernel(BACKENDS[backend]):
        report_decode(backend, (n_q, n_kv, batch, kv_len),
                      lambda i: F.scaled_dot_product_attention(q, *caches[i], enable_gqa=gqa), n)


def decode_paged(backend, n_q, n_kv, batch, kv_len):
    n = n_rotated(n_kv, batch, kv_len)
    n_pages = kv_len // PAGE
    caches = [random_half(batch * n_pages, 2, PAGE, n_kv, HEAD_DIM) for _ in range(n)]
    q, out = random_half(batch, n_q, HEAD_DIM), random_half(batch, n_q, HEAD_DIM)
    numbers = {"device": "cuda", "dtype": torch.int32}
    tensor_cores = backend != "plain"
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
        torch.zeros(512 << 20, dtype=torch.uint8, device="cuda"), "NHD", use_tensor_cores=tensor_cores,
        backend=backend if tensor_cores else "auto")
    wrapper.plan(torch.arange(batch + 1, **numbers) * n_pages, torch.arange(batch * n_pages, **numbers),
                 torch.full((batch,), PAGE, **numbers), n_q, n_kv, HEAD_DIM, PAGE, q_data_type=torch.float16)
    report_decode(f"flashinfer-{backend}", (n_q, n_kv, batch, kv_len), lambda i: wrapper.run(q, caches[i], out=out), n)


def prefill(backend, n_q, n_kv, n_rows, kv_len):
    q = random_half(1, n_q, n_rows, HEAD_DIM)
    k, v = (random_half(1, n_kv, kv_len, HEAD_DIM) for _ in range(2))
    if backend == "fa2":  # knows no groups
        k, v = (x.repeat_interleave(n_q // n_kv, dim=1) for x in (k, v))
    with sdpa_kernel(BACKENDS[backend]):
        us = time_graph(lambda i: F.scaled_dot_product_attention(q, k, v, enable_gqa=backend != "fa2"), 2)
    flops = 4 * n_rows * kv_len * HEAD_DIM * n_q
    print(f"{backend:5} f16  prefill {n_q}/{n_kv} {n_rows} x {kv_len}  {us:8.1f} us  {flops / us * 1e-6:4.0f} TFLOP/s",
          flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="all", choices=("decode", "prefill", "all"))
    what = parser.parse_args().what
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "cudnn", torch.backends.cudnn.version(),
          *["flashinfer", flashinfer.__version__] if flashinfer else [])
    calls = []
    for shape in DECODE if what != "prefill" else []:
        calls += [(decode, backend, *shape) for backend in BACKENDS]
        calls += [(decode_paged, backend, *shape) for backend in FLASHINFER_BACKENDS] if flashinfer else []
    if what != "decode":
        calls += [(prefill, backend, *shape) for shape in PREFILL for backend in BACKENDS]
    for call, *arguments in calls:
        try:
            call(*arguments)
        except Exception as error:  # whatever a library has not for a shape
            print(call.__name__, arguments, "failed:", str(error).splitlines()[0], flush=True)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()

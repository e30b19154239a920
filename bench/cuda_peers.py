#!/usr/bin/env python3
"""fp16 attention through torch at the shapes of cuda_attention_bench: cuDNN and FlashAttention-2.

    cuda_peers.py [decode|prefill|all]

Graph replay over rotated caches of at least 1 GB together, median of 11 replays, head_dim 128.
"""
import statistics
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

REPLAYS = 11
ROTATED_BYTES = 1.1e9
HEAD_DIM = 128
DECODE = [
    (16, 2, 1, 8192), (16, 2, 1, 32768), (16, 2, 1, 131072),
    (32, 8, 1, 8192), (32, 8, 1, 32768), (32, 8, 1, 131072),
    (32, 8, 8, 32768), (32, 8, 32, 32768),
    (128, 8, 1, 131072), (32, 32, 1, 32768), (16, 2, 1, 524288),
]
PREFILL = [(32, 8, 4096, 32768), (16, 2, 512, 32768)]
BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "fa2": SDPBackend.FLASH_ATTENTION}


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


def decode(backend, n_q, n_kv, batch, kv_len):
    n_bytes = 4 * batch * n_kv * kv_len * HEAD_DIM
    n = max(2, min(64, int(ROTATED_BYTES / n_bytes) + 1))
    caches = [[random_half(batch, n_kv, kv_len, HEAD_DIM) for _ in range(2)] for _ in range(n)]
    q = random_half(batch, n_q, 1, HEAD_DIM)
    if backend == "fa2":
        # One query row: the heads of a group become rows, which this kernel can use and GQA expansion cannot.
        q = q.view(batch, n_kv, n_q // n_kv, HEAD_DIM)
        gqa = False
    else:
        gqa = n_q != n_kv
    with sdpa_kernel(BACKENDS[backend]):
        us = time_graph(lambda i: F.scaled_dot_product_attention(q, *caches[i], enable_gqa=gqa), n)
    shape = f"{n_q:3}/{n_kv:<2} B{batch:<2} {kv_len // 1024:4}K"
    print(f"{backend:5} f16  {shape}  {us:8.2f} us  {n_bytes / us * 1e-6:5.2f} TB/s", flush=True)


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
    what = sys.argv[1] if len(sys.argv) > 1 else "all"
    print(torch.cuda.get_device_name(), torch.__version__, "cudnn", torch.backends.cudnn.version())
    calls = [(decode, shape) for shape in DECODE] if what in ("all", "decode") else []
    calls += [(prefill, shape) for shape in PREFILL] if what in ("all", "prefill") else []
    for call, shape in calls:
        for backend in BACKENDS:
            try:
                call(backend, *shape)
            except (RuntimeError, torch.OutOfMemoryError) as error:
                print(backend, shape, "failed:", str(error).splitlines()[0], flush=True)
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()

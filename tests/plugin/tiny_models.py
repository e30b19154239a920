"""Tiny GGUF models with random weights and a vocabulary of bytes, of kinds that no small real model is at hand for."""
import array
import random
import struct

UINT32, INT32, FLOAT32, STRING, ARRAY = 4, 5, 6, 8, 9
EMBD, FF, LAYERS, TRAINED_CONTEXT = 64, 96, 2, 512


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def value(v):
    if isinstance(v, str):
        return struct.pack("<I", STRING) + string(v)
    if isinstance(v, float):
        return struct.pack("<If", FLOAT32, v)
    if isinstance(v, int):
        return struct.pack("<II", UINT32, v)
    kind, pack = ((STRING, string) if isinstance(v[0], str) else (FLOAT32, lambda x: struct.pack("<f", x))
                  if isinstance(v[0], float) else (INT32, lambda x: struct.pack("<i", x)))
    return struct.pack("<IIQ", ARRAY, kind, len(v)) + b"".join(map(pack, v))


def write(path, arch, metadata, tensors):
    """tensors: name -> shape, fastest dimension first. One-dimensional ones are norms: all ones."""
    dice = random.Random(1)
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + ["\u2581"]
    metadata = {
        "general.architecture": arch, "general.name": "tiny " + arch,
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.scores": [0.0] * len(names), "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1],
        **{f"{arch}.{key}": v for key, v in {
            "block_count": LAYERS, "context_length": TRAINED_CONTEXT, "embedding_length": EMBD,
            "feed_forward_length": FF, "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 10000.0,
            **metadata}.items()}}
    tensors = {"token_embd.weight": (EMBD, len(names)), **tensors}
    head = b"".join(string(k) + value(v) for k, v in metadata.items())
    infos, data = b"", b""
    for name, shape in tensors.items():
        infos += string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        n = 1
        for size in shape:
            n *= size
        data += array.array("f", [1.0] * n if len(shape) == 1 else [dice.gauss(0, 0.2) for _ in range(n)]).tobytes()
        data += bytes(-len(data) % 32)
    start = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata)) + head + infos
    with open(path, "wb") as file:
        file.write(start + bytes(-len(start) % 32) + data)


def feed_forward(i):
    return {f"blk.{i}.attn_norm.weight": (EMBD,), f"blk.{i}.ffn_norm.weight": (EMBD,),
            f"blk.{i}.ffn_gate.weight": (EMBD, FF), f"blk.{i}.ffn_up.weight": (EMBD, FF),
            f"blk.{i}.ffn_down.weight": (FF, EMBD)}


def attention(i, kv_dims):
    return {f"blk.{i}.attn_q.weight": (EMBD, EMBD), f"blk.{i}.attn_k.weight": (EMBD, kv_dims),
            f"blk.{i}.attn_v.weight": (EMBD, kv_dims), f"blk.{i}.attn_output.weight": (EMBD, EMBD)}


def plain_norms(path):
    """No weight is one-dimensional, so that no fingerprint tells the model from another."""
    tensors = {}
    for i in range(LAYERS):
        tensors.update({**feed_forward(i), **attention(i, EMBD)})
        del tensors[f"blk.{i}.attn_norm.weight"], tensors[f"blk.{i}.ffn_norm.weight"]
    write(path, "olmo", {"attention.layer_norm_epsilon": 1e-5, "attention.head_count": 2}, tensors)


def recurrent(path):
    tensors = {"output_norm.weight": (EMBD,)}
    for i in range(LAYERS):
        tensors.update({
            f"blk.{i}.attn_norm.weight": (EMBD,), f"blk.{i}.ssm_in.weight": (EMBD, 4 * EMBD),
            f"blk.{i}.ssm_conv1d.weight": (4, 2 * EMBD), f"blk.{i}.ssm_conv1d.bias": (2 * EMBD,),
            f"blk.{i}.ssm_x.weight": (2 * EMBD, 4 + 2 * 16), f"blk.{i}.ssm_dt.weight": (4, 2 * EMBD),
            f"blk.{i}.ssm_dt.bias": (2 * EMBD,), f"blk.{i}.ssm_a": (16, 2 * EMBD), f"blk.{i}.ssm_d": (2 * EMBD,),
            f"blk.{i}.ssm_out.weight": (2 * EMBD, EMBD)})
    write(path, "mamba", {"ssm.conv_kernel": 4, "ssm.inner_size": 2 * EMBD, "ssm.state_size": 16,
                          "ssm.time_step_rank": 4, "attention.head_count": 0}, tensors)


def hybrid(path):
    """One layer of convolutions with a recurrent state, one of attention."""
    tensors = {"token_embd_norm.weight": (EMBD,), **feed_forward(0), **feed_forward(1), **attention(1, 32),
               "blk.1.attn_q_norm.weight": (32,), "blk.1.attn_k_norm.weight": (32,),
               "blk.0.shortconv.conv.weight": (3, EMBD), "blk.0.shortconv.in_proj.weight": (EMBD, 3 * EMBD),
               "blk.0.shortconv.out_proj.weight": (EMBD, EMBD)}
    write(path, "lfm2", {"shortconv.l_cache": 3, "attention.head_count": 2, "attention.head_count_kv": [0, 1]}, tensors)


def latent(path):
    """Latent attention (MLA): the values are a part of the keys."""
    rank, rope, head = 48, 16, 32
    tensors = {"output_norm.weight": (EMBD,)}
    for i in range(LAYERS):
        tensors.update({
            **feed_forward(i), f"blk.{i}.attn_q_a_norm.weight": (32,), f"blk.{i}.attn_kv_a_norm.weight": (rank,),
            f"blk.{i}.attn_q_a.weight": (EMBD, 32), f"blk.{i}.attn_q_b.weight": (32, 2 * head),
            f"blk.{i}.attn_kv_a_mqa.weight": (EMBD, rank + rope), f"blk.{i}.attn_k_b.weight": (head - rope, rank, 2),
            f"blk.{i}.attn_v_b.weight": (rank, head, 2), f"blk.{i}.attn_output.weight": (2 * head, EMBD)})
    write(path, "deepseek2", {
        "attention.head_count": 2, "attention.head_count_kv": 1, "attention.key_length": rank + rope,
        "attention.value_length": rank, "attention.key_length_mla": head, "attention.value_length_mla": head,
        "attention.q_lora_rank": 32, "attention.kv_lora_rank": rank, "rope.dimension_count": rope,
        "leading_dense_block_count": LAYERS, "expert_feed_forward_length": FF, "expert_shared_count": 1}, tensors)


def several_positions(path):
    """M-RoPE: four positions per token."""
    tensors = {"output_norm.weight": (EMBD,)}
    for i in range(LAYERS):
        tensors.update({**feed_forward(i), **attention(i, 32)})
        tensors.update({f"blk.{i}.attn_{x}.bias": (EMBD if x == "q" else 32,) for x in "qkv"})
    write(path, "qwen2vl", {"attention.head_count": 2, "attention.head_count_kv": 1,
                            "rope.dimension_sections": [4, 6, 6, 0]}, tensors)

"""Octet's random weights in PyTorch, bit for bit: docs/random-weights.md has the formula.

    from random_weights import fill_model
    fill_model(hf_model, seed=0, std=0.02)

Run as a program it checks itself against known words of Philox and, given what bench/agree.mjs wrote about a model, that model's
weights: `python3 bench/random_weights.py DIR/NAME.json` (numpy alone, no GPU; meant for small models).
"""
import re
import sys

MASK = 0xFFFFFFFF
CHUNK = 1 << 22  # groups of four elements at once: bounds the temporaries to a few hundred megabytes
PARTS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


def _mul(constant, x):
    """High and low 32 bits of a 32-bit product. A signed 64-bit product wraps, but its bits are those of the unsigned one."""
    product = x * constant
    return (product >> 32) & MASK, product & MASK


def philox(c0, c1, c2, c3, seed):
    """Ten rounds over int64 arrays (of torch or numpy) of 32-bit words."""
    k0, k1 = seed & MASK, seed >> 32
    for _ in range(10):
        hi0, lo0 = _mul(0xD2511F53, c0)
        hi1, lo1 = _mul(0xCD9E8D57, c2)
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def stream_of(name):
    """Stream of a checkpoint tensor, None for a norm."""
    if name == "model.embed_tokens.weight":
        return 0
    if name == "lm_head.weight":
        return 1
    found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    return 64 * (int(found[1]) + 1) + PARTS.index(found[2]) if found and found[2] in PARTS else None


def fill(tensor, seed, std, stream):
    """Fills a contiguous torch tensor, on its device."""
    import numpy as np
    import torch
    flat = tensor.view(-1)
    amplitude = float(np.float32(std * 1.7320508075688772))
    for begin in range(0, (flat.numel() + 3) // 4, CHUNK):
        quad = torch.arange(begin, min(begin + CHUNK, (flat.numel() + 3) // 4), dtype=torch.int64, device=flat.device)
        words = philox(quad & MASK, quad >> 32, torch.full_like(quad, stream), torch.ones_like(quad), seed)
        word = torch.stack(words, 1).view(-1)[: flat.numel() - 4 * begin]
        unit = (2 * (word >> 8) + 1 - (1 << 24)).to(torch.float32) * 2.0**-24
        flat[4 * begin : 4 * begin + word.numel()] = (unit * amplitude).to(flat.dtype)


def fill_model(model, seed=0, std=0.02):
    """Fills a Gemma or Llama model of transformers; norms become the identity, biases zero."""
    import torch
    gemma = model.config.model_type.startswith("gemma")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            stream = stream_of(name)
            if stream is not None:
                fill(parameter.data, seed, std, stream)
            elif name.endswith("bias") or gemma:
                parameter.zero_()
            else:
                parameter.fill_(1)


def _self_test():
    import numpy as np
    one = lambda *words: [np.array([w], dtype=np.int64) for w in words]
    # Random123's known answers (kat_vectors, philox4x32 10).
    for counter, seed, expected in [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((MASK,) * 4, (MASK << 32) | MASK, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0x299F31D0 << 32) | 0xA4093822, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ]:
        words = tuple(int(w[0]) for w in philox(*one(*counter), seed))
        assert words == expected, (words, expected)
    assert [stream_of(n) for n in ("model.embed_tokens.weight", "lm_head.weight", "model.layers.2.mlp.down_proj.weight", "model.norm.weight")] == [0, 1, 198, None]
    print("random_weights.py: known answers match")


def _check_dump(path):
    import hashlib
    import json
    import numpy as np
    entry = json.load(open(path))
    amplitude = np.float32(entry["config"]["initializer_range"] * 1.7320508075688772)
    matrices = {name: stream_of(name) for name in entry["hashes"] if stream_of(name) is not None}
    for name, stream in matrices.items():
        count = entry["sizes"][name]
        quad = np.arange((count + 3) // 4, dtype=np.int64)
        word = np.stack(philox(quad & MASK, quad >> 32, np.full_like(quad, stream), np.ones_like(quad), entry["seed"]), 1).reshape(-1)[:count]
        bits = ((2 * (word >> 8) + 1 - (1 << 24)).astype(np.float32) * np.float32(2.0**-24) * amplitude).view(np.uint32)
        nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        assert hashlib.sha256(nearest.tobytes()).hexdigest() == entry["hashes"][name], f"{name} differs"
    print(f"{path}: {len(matrices)} tensors are the formula's, bit for bit")


if __name__ == "__main__":
    _self_test()
    for file in sys.argv[1:]:
        _check_dump(file)

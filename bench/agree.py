"""Hugging Face's half: the same random weights in transformers, on the same GPU, against what bench/agree.mjs wrote.

    python3 bench/agree.py DIR NAME...

The bar. transformers is run twice: in bfloat16, as users run it, and in float32 on the same (bfloat16) weights, the reference.
Both bfloat16 runs round after every op, each in its own order, so neither is the other's truth. Ours must be no farther from
the reference than transformers' own bfloat16 run (RMS over all logits, at most 1.1 times), and nowhere farther from that run
than twice that run's largest own error: two runs of the same quality can differ by the sum of their errors. Greedy tokens must
be transformers' wherever its two best logits are farther apart than that tolerance, step by step on our own continuation.
"""
import gc
import hashlib
import json
import os
import sys

import numpy as np
import torch
import transformers

from random_weights import fill_model


def load(entry):
    config = dict(entry["config"])
    kind = transformers.GemmaForCausalLM if config["model_type"] == "gemma" else transformers.LlamaForCausalLM
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = kind(kind.config_class(**{k: v for k, v in config.items() if k not in ("architectures", "model_type", "dtype")})).eval()
    torch.set_default_dtype(torch.float32)
    fill_model(model, entry["seed"], config["initializer_range"])
    return model


def same_weights(model, hashes):
    found = dict(model.named_parameters())
    sha = lambda t: hashlib.sha256(t.detach().cpu().contiguous().view(torch.int16).numpy().tobytes()).hexdigest()
    # Norms are float32 in ours and identities in both.
    return {name: sha(found[name]) == want for name, want in hashes.items() if "norm" not in name}


def forward(model, ids, rows):
    with torch.no_grad():
        return torch.cat([model(ids[i : i + rows], use_cache=False).logits.float() for i in range(0, len(ids), rows)])


def reference(model, ids):
    """Float32 arithmetic on the bfloat16 weights. Gemma's embedding factor is a bfloat16 number in the model it stands for."""
    model.float()
    if model.config.model_type == "gemma":
        root = torch.tensor(model.config.hidden_size**0.5)
        ratio = (root.to(torch.bfloat16).float() / root).item()
        model.model.embed_tokens.register_forward_hook(lambda module, args, out: out * ratio)
    return forward(model, ids, 1)


def rms(x):
    return x.double().square().mean().sqrt().item()


def compare(folder, name):
    entry = json.load(open(os.path.join(folder, f"{name}.json")))
    model = load(entry)
    weights = same_weights(model, entry["hashes"])
    ids = torch.tensor(entry["inputIds"], device="cuda")
    tokens = torch.tensor(entry["tokens"], device="cuda")
    whole = torch.cat([ids, tokens[:, :-1]], 1)
    ours = torch.from_numpy(np.fromfile(os.path.join(folder, f"{name}.f32"), np.float32)).view(*ids.shape, entry["vocabSize"]).cuda()
    theirs_whole = forward(model, whole, 2)
    theirs = forward(model, ids, 2)
    true = reference(model, ids)
    del model
    gc.collect()
    torch.cuda.empty_cache()
    error_ours, error_theirs, apart = ours - true, theirs - true, ours - theirs
    tolerance = 2 * error_theirs.abs().max().item()
    steps = theirs_whole[:, ids.shape[1] - 1 :]
    best = steps.topk(2, -1)
    decisive = (best.values[..., 0] - best.values[..., 1]) > tolerance
    equal = best.indices[..., 0] == tokens
    row = {
        "bench": "agree", "model": name, "transformers": transformers.__version__, "torch": torch.__version__, "gpu": torch.cuda.get_device_name(),
        "batch": len(ids), "prompt": ids.shape[1], "newTokens": tokens.shape[1],
        "weightsEqual": all(weights.values()), "weightsCompared": len(weights),
        "logitsRms": rms(true),
        "errorRms": {"ours": rms(error_ours), "transformers": rms(error_theirs)},
        "errorMax": {"ours": error_ours.abs().max().item(), "transformers": error_theirs.abs().max().item()},
        "apart": {"mean": apart.abs().mean().item(), "max": apart.abs().max().item(), "tolerance": tolerance},
        "argmaxAgreement": {"oursTrue": (ours.argmax(-1) == true.argmax(-1)).float().mean().item(), "theirsTrue": (theirs.argmax(-1) == true.argmax(-1)).float().mean().item(), "oursTheirs": (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item()},
        "greedy": {"steps": decisive.numel(), "decisive": int(decisive.sum()), "equal": int(equal.sum()), "unequalDecisive": int((decisive & ~equal).sum()), "recordedIsEager": entry["tokens"] == entry["eagerTokens"]},
    }
    row["pass"] = bool(row["weightsEqual"] and weights and row["errorRms"]["ours"] <= 1.1 * row["errorRms"]["transformers"] and row["apart"]["max"] <= tolerance and row["greedy"]["unequalDecisive"] == 0 and row["greedy"]["recordedIsEager"])
    print(json.dumps(row), flush=True)
    return row["pass"]


if __name__ == "__main__":
    sys.exit(0 if all([compare(sys.argv[1], name) for name in sys.argv[2:]]) else 1)

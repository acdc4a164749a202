"""The peer's side of bench/h200.mjs: transformers on the same GPU, with random weights of the same shapes.

    python3 bench/peers_hf.py [gemma-7b-generate llama-3-8b-decode llama-3-8b-batch llama-3-8b-prefill] [--eager]

One JSON line a figure. Generation runs with a static cache, which transformers compiles: its fastest way. --eager adds the
default. The compiling run is not counted.
"""
import gc
import json
import statistics
import sys
import time

import torch
import transformers

LLAMA = dict(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192)
GEMMA = dict(vocab_size=256000, hidden_size=3072, intermediate_size=24576, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=16, head_dim=256, max_position_embeddings=8192)
EAGER = "--eager" in sys.argv
WANTED = [a for a in sys.argv[1:] if not a.startswith("-")]
begun = time.time()
models = {}


def out(section, **row):
    print(json.dumps({"bench": "peer", "section": section, "peer": f"transformers {transformers.__version__}", "torch": torch.__version__, "gpu": torch.cuda.get_device_name(), "at": round(time.time() - begun, 1), **row}), flush=True)


def model(name):
    if name in models:
        return models[name]
    models.clear()
    gc.collect()
    torch.cuda.empty_cache()
    config = transformers.GemmaConfig(**GEMMA) if name == "gemma-7b" else transformers.LlamaConfig(**LLAMA, rope_parameters={"rope_type": "default", "rope_theta": 500000.0})
    config._attn_implementation = "sdpa"
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        made = (transformers.GemmaForCausalLM if name == "gemma-7b" else transformers.LlamaForCausalLM)(config).eval()
    torch.set_default_dtype(torch.float32)
    made.generation_config.eos_token_id = None
    made.generation_config.pad_token_id = 0
    models[name] = made
    return made


def generate(section, name, batch, prompt, new):
    it = model(name)
    ids = torch.randint(5, 30000, (batch, prompt), device="cuda")

    def run(**how):
        torch.cuda.synchronize()
        start = time.time()
        with torch.no_grad():
            got = it.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False, **how)
        torch.cuda.synchronize()
        assert got.shape == (batch, prompt + new)
        return time.time() - start

    if EAGER:
        seconds = run()
        out(section, how="eager", model=name, batch=batch, prompt=prompt, newTokens=new, seconds=seconds, tokensPerS=batch * new / seconds)
    first = run(cache_implementation="static")
    seconds = statistics.median(run(cache_implementation="static") for _ in range(3 if first < 60 and new < 200 else 1))
    out(section, how="compiled", model=name, batch=batch, prompt=prompt, newTokens=new, seconds=seconds, tokensPerS=batch * new / seconds, firstSeconds=first)
    torch._dynamo.reset()


def prefill(section, name, batch, prompt):
    it = model(name)
    ids = torch.randint(5, 30000, (batch, prompt), device="cuda")
    times = []
    for _ in range(6):
        torch.cuda.synchronize()
        start = time.time()
        with torch.no_grad():
            it(ids, use_cache=True, logits_to_keep=1)
        torch.cuda.synchronize()
        times.append(time.time() - start)
    seconds = statistics.median(times[2:])
    out(section, how="eager", model=name, batch=batch, prompt=prompt, seconds=seconds, tokensPerS=batch * prompt / seconds)


SECTIONS = {
    "gemma-7b-generate": lambda s: generate(s, "gemma-7b", 64, 20, 492),
    "llama-3-8b-prefill": lambda s: (prefill(s, "llama-3-8b", 8, 2048), prefill(s, "llama-3-8b", 1, 2048)),
    "llama-3-8b-decode": lambda s: generate(s, "llama-3-8b", 1, 20, 128),
    "llama-3-8b-batch": lambda s: generate(s, "llama-3-8b", 64, 20, 492),
}
for section, run in SECTIONS.items():
    if WANTED and section not in WANTED:
        continue
    try:
        run(section)
    except Exception as error:  # one section's failure leaves the others
        out(section, error=f"{type(error).__name__}: {str(error)[:300]}")

"""Reads a checkpoint that `octet quantize` wrote with transformers and compressed-tensors, and compares the logits.

    octet quantize --model DIR --output OUT [--recipe … --calibrate …]
    octet logits --model OUT --fp8 --dtype f32 --input-ids IDS.json --output LOGITS.safetensors
    python bench/read_quantized.py OUT IDS.json LOGITS.safetensors

Both sides quantize activations, so a value next to the middle of two FP8 codes may fall to either side, and what comes after
it may differ by what one code moves. Fails unless the first token agrees to 1e-3 and the median
token to 2e-2 of the largest logit. Scales of an FP8 cache are read and checked by their shapes; --no-kv leaves the cache of
transformers unquantized, which `octet logits` has none of. Block scaling needs widths that are multiples of 128 there.
"""
import argparse
import json

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("folder")
parser.add_argument("input_ids")
parser.add_argument("logits")
parser.add_argument("--no-kv", action="store_true")
args = parser.parse_args()

config = AutoConfig.from_pretrained(args.folder)
if args.no_kv:
    config.quantization_config["kv_cache_scheme"] = None
model = AutoModelForCausalLM.from_pretrained(args.folder, config=config, dtype=torch.float32, attn_implementation="eager")
ids = torch.tensor(json.load(open(args.input_ids))["input_ids"])
with torch.no_grad():
    theirs = model(ids, use_cache=False).logits
ours = load_file(args.logits)["logits"]
largest = ours.abs().max().item()
worst = (ours - theirs).abs().amax(-1).flatten()
print(json.dumps({"tokens": worst.numel(), "largest_logit": largest, "first": worst[0].item(), "median": worst.median().item(), "max": worst.max().item()}))
assert worst[0] <= 1e-3 and worst.median() <= 2e-2 * largest, "the logits do not agree"

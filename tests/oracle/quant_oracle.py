"""Makes tests/fixtures/quant.bin: a few random blocks of each GGUF type with the f32 values that
gguf.quants.dequantize gives for them (pip install gguf numpy).

Layout, little-endian, per type: 8 bytes name (NUL-padded), u32 bytes of blocks, u32 elements,
the blocks, the f32 values.
"""
import struct
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

N_BLOCKS = 4
# Where the f16 scales of a block lie; random bytes elsewhere exercise every code. A scale must be
# finite for the comparison of bits to mean something, so those get numbers, denormals among them.
HALVES = {
    T.Q8_0: [0], T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q2_K: [80, 82],
    T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
}


def main(path):
    rng = np.random.default_rng(20240601)
    with open(path, "wb") as out:
        for kind, places in HALVES.items():
            elements, size = GGML_QUANT_SIZES[kind]
            blocks = rng.integers(0, 256, (N_BLOCKS, size), dtype=np.uint8)
            for b in range(N_BLOCKS):
                for place in places:
                    scale = np.float16(rng.normal() * 10.0 ** rng.integers(-7, 2))
                    blocks[b, place : place + 2] = np.frombuffer(scale.tobytes(), np.uint8)
            values = dequantize(blocks, kind).astype(np.float32)
            assert np.isfinite(values).all()
            write(out, kind.name, blocks.tobytes(), values)
        # Every exponent of both signs, with denormals, infinities and signed zeros.
        halves = np.arange(0, 65536, 61, dtype=np.uint16)
        halves = np.concatenate([halves, np.array([0, 1, 0x3FF, 0x400, 0x7BFF, 0x7C00], np.uint16)])
        halves = np.concatenate([halves, halves ^ np.uint16(0x8000)])
        halves = halves[~np.isnan(halves.view(np.float16))]
        write(out, "F16", halves.tobytes(), dequantize(halves.view(np.uint8), T.F16))
        brains = rng.integers(0, 65536, 501, dtype=np.uint16)
        brains = brains[(brains & 0x7F80) != 0x7F80]
        write(out, "BF16", brains.tobytes(), dequantize(brains.view(np.uint8).reshape(-1, 2), T.BF16))


def write(out, name, data, values):
    values = np.ascontiguousarray(values, dtype="<f4").ravel()
    out.write(struct.pack("<8sII", name.encode(), len(data), values.size))
    out.write(data)
    out.write(values.tobytes())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/quant.bin")

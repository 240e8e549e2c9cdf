#!/usr/bin/env python3
"""Make wordpiece.json and sentences.safetensors: what Hugging Face's tokenizers library and PyTorch
answer to the texts below, for examples/03_sentence_similarity to answer too.

Run by hand, only when a text is added; the tests need neither Python nor PyTorch:

    python3 -m venv venv && venv/bin/pip install torch==2.13.0 numpy safetensors tokenizers==0.23.3
    examples/03_sentence_similarity/fetch_weights.py
    venv/bin/python tests/golden/make_sentences.py

It also prints the similarities that examples/03_sentence_similarity/published_results.hpp holds.
README.md describes the files.
"""

import argparse
import json
import string
from pathlib import Path
from typing import List

import torch
from make_golden import FOLDER, BertModel, Golden, Tensors, filled
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from torch.nn import functional as F

import fetch_wheel  # found since make_golden knows where the examples are

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LONGEST = 256

# --- Tokens -----------------------------------------------------------------------------------


def letters(*blocks: str) -> List[str]:
    """Of blocks such as "a-z"."""
    ranges = [(ord(block[0]), ord(block[-1])) for block in blocks]
    return [chr(c) for first, last in ranges for c in range(first, last + 1)]


def small_vocabulary() -> List[str]:
    """Letters of many scripts, each to begin a word and to go on, and a few words and endings."""
    scripts = letters(
        "a-z", "0-9", "α-ω", "а-я", "א-ת", "ا-غ", "ف-ي", "क-ह", "ा-ौ", "ก-ฮ", "ᄀ-ᄒ", "ᅡ-ᅵ", "ᆨ-ᇂ", "あ-ん",
        "ア-ン", "０-９", "ａ-ｚ",
    )  # fmt: skip
    others = [*string.punctuation, *"ßæøłıªº€£¥°…“”‘’«»–—·、。「」！？½①㎏日本語中文字人口漢字豈"]
    words = "the cafe naive resume un run strange istanbul hello world heed http www com 2024 i".split()
    endings = "##aff ##able ##ning ##ing ##s ##ed ##er ##ly ##24 ##com".split()
    tokens = [*SPECIAL, *scripts, *others, *words, *(f"##{c}" for c in scripts), *endings]
    return list(dict.fromkeys(tokens))


def make_tokenizer(tokens: List[str]) -> Tokenizer:
    """The reference for lower-case models, with a vocabulary."""
    ids = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(t, ids[t]) for t in ("[CLS]", "[SEP]")]
    )
    tokenizer.enable_truncation(LONGEST)
    return tokenizer


HARD_TEXTS = [
    # Nothing, and white space of all kinds.
    "", " ", "\t\n\r", "a\tb\nc\rd", "a\u00a0b\u2003c\u3000d\u202fe", "a\u2028b\u2029c",
    "\u1680a\u205fb",
    # Control and formatting characters vanish, tabs apart.
    "a\x00b\x01c\x7fd", "he\u200bllo", "\ufeffhello", "soft\u00adhyphen", "a\x0bb\x0cc\x85d",
    "a\x1cb\x1fc", "left\u200emark\u202e\u2066", "re\ufffdplaced", "private\ue000use\U000f0000",
    "\U000e0041tag",
    # Accents, composed and not, and marks that stack.
    "caf\u00e9 CAF\u00c9 cafe\u0301", "na\u00efve R\u00e9sum\u00e9", "\u1ec7 e\u0323\u0302 e\u0302\u0323",
    "a\u0301\u0302\u0303\u0304b", "\u0301a", "\u0344\u0345", "\u212b\u00c5A\u030a", "\u1e9b\u0323",
    "\u01d5\u01d6\u1e69", "\u0f73", "x\u20ddy\u20e3", "z\u0361s",
    # Letters whose lower case is peculiar.
    "\u0130stanbul ISTANBUL \u0131", "STRASSE Stra\u00dfe STRA\u1e9eE",
    "\u039f\u0394\u039f\u03a3 \u03bf\u03b4\u03cc\u03c2 \u03a3", "\u01c4\u01c5\u01c6", "\u0149 \ufb01\ufb02",
    "\u2126 \u212a \u00b5", "\u1fbc\u1fb3\u0391\u0399", "\u0410\u0411\u0412 \u0419\u0439\u0401\u0451",
    "\U00010400\U00010428", "\u10a0\u2d00\u1c90",
    # Scripts.
    "\ud55c\uad6d\uc5b4 \uac00\uac01\ub097", "\u1112\u1161\u11ab", "\u3131\u314f",
    "\u0627\u0644\u0639\u064e\u0631\u064e\u0628\u0650\u064a\u0651\u064e\u0629", "\u0622\u0623\u0624\u0625\u0626",
    "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd", "\u0928\u092e\u0938\u094d\u0924\u0947", "\u0915\u093f\u0924\u093e\u092c \u0958\u095b",
    "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22\u0e17\u0e35\u0e48", "\u1780\u17c1\u1798", "\u0ba4\u0bae\u0bbf\u0bb4\u0bcd",
    "\u65e5\u672c\u8a9e\u306e\u304c\u304e \u30ac\u30ae", "\u4e2d\u6587\u5b57abc\u4eba\u53e3", "\u3400\u4dbf\U00020000\U0002a6df",
    "\uf900\ufa0c\U0002f800", "\u3007\u3005\u303b",
    # Ideographs at both ends of each block, and their neighbours; extension E begins late here.
    "a\u33ffb\u3400c\u4dbfd\u4dc0e\u4dfff\u4e00g\u9fffh\ua000i", "a\uf900b\ufaffc\ufb00d",
    "a\U0002a6dfb\U0002a6e0c\U0002a700d\U0002b73fe\U0002b740f\U0002b81fg\U0002b820h",
    "a\U0002b91fb\U0002b920c\U0002ceafd\U0002ceb0e\U0002f800f\U0002fa1fg\U0002fa20h",
    # Punctuation of ASCII and of Unicode, symbols, which are letters to BERT.
    string.punctuation, "a.b,c;d:e!f?g", "don't can\u2019t \u201cquoted\u201d \u00abguillemets\u00bb",
    "\u2013\u2014\u2015\u2026\u00b7\u3001\u3002\u300c\u300d\uff01\uff1f", "\u00bfqu\u00e9? \u00a1s\u00ed!", "a_b-c a\u203fb\u2040c\uff3fd",
    "a\u2010b\u301cc (a\u2045b\u2046c) a\u2039b\u203ac\u2e20d\u2e21e", "$5 \u20ac5 \u00a35 5\u00b0 \u00a9\u00ae\u2122",
    "1+1=2 <b>x</b> ~y^z`w|", "\u055a\u055b\u05be\u05c0\u060c\u061b\u061f\u066a\u0964\u0965\u0e2f\u0e5a", "\u2460\u00bd\u33a2\u00b2",
    "\U00010100\U00010101", "\u037e\u0387\u1fef",
    # Emoji, alone, joined, coloured, flags.
    "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467 hello", "\U0001f44d\U0001f3fd", "\U0001f1eb\U0001f1f7", "\u2764\ufe0f", "1\ufe0f\u20e3",
    # Full-width forms.
    "\uff21\uff22\uff23\uff10\uff11\uff12\uff01", "\uff76\uff9e", "\uffe5\uff5e",
    # Long words: 99, 100 and 101 letters, one of them with accents that vanish.
    "a" * 99, "a" * 100, "a" * 101, "a\u0301" * 100 + " a", "a" * 101 + ".b",
    # Addresses and numbers.
    "https://www.example.com/a?b=c&d=%20#e", "someone@example.com", "3.14159 1,000,000 2024-01-31 10:30",
    "0x1F600 1e-5 \u0661\u0662\u0663", "C:\\path\\to file.txt",
    # Special tokens typed in the text, and what only looks like them.
    "[SEP]", "a[SEP]b", "[CLS] [MASK][PAD]x[UNK]", "[sep] [SEP [[SEP]] SEP]", "[ SEP ]", "[MASK]able un[MASK]",
    "[unused1] ##ing", "caf[SEP]\u0301e", "\u4e2d[SEP]\u6587",
    # Words in pieces, known and not.
    "unaffable runnings strangely", "HELLO World heed-heed", "un\u0121aff", "hello\u20acworld \u20ac", "the\u17f7the", "qqq\u1e9e",
    # More tokens than fit.
    "the " * 300, "x" + " y" * 253, "x" + " y" * 254,
]  # fmt: skip


def make_tokens(model: Tokenizer) -> None:
    small = make_tokenizer(small_vocabulary())
    cases = [
        {"text": text, "ids": small.encode(text).ids, "model_ids": model.encode(text).ids}
        for text in HARD_TEXTS
    ]
    path = FOLDER / "wordpiece.json"
    lines = ",\n".join(json.dumps(case) for case in cases)
    vocabulary = json.dumps(small_vocabulary())
    path.write_text(f'{{"vocabulary": {vocabulary},\n"cases": [\n{lines}\n]}}\n')
    print(f"{path.name}: {len(cases)} texts, {path.stat().st_size:,} bytes")


# --- Embeddings -------------------------------------------------------------------------------

# The first six are those that the example compares when it is given none.
SENTENCES = [
    "The cat is sleeping on the warm roof.",
    "A kitten naps on top of the house.",
    "Share prices fell sharply on Monday.",
    "The stock market lost a lot at the start of the week.",
    "How do I bake bread without yeast?",
    "A recipe for a loaf that needs no leaven.",
    "",
    "yes",
    "Der Kaffee im Caf\u00e9 \u2013 \u65e5\u672c\u8a9e \U0001f600 [SEP] unaffable!",
    "In the beginning was the word, and then there were very many of them. " * 30,
]
PUBLISHED = 6

CONFIG = {
    "vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
    "intermediate_size": 1536, "max_position_embeddings": 512, "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}  # fmt: skip


def embed(weights: Tensors, tokens: List[List[int]]) -> Tensor:
    """Each text by itself: the mean of its hidden states, of length 1."""
    model = filled(BertModel(**CONFIG), weights)

    def one(ids: List[int]) -> Tensor:
        row = torch.tensor([ids])
        visible = torch.ones_like(row, dtype=torch.bool)
        return F.normalize(model(row, visible, torch.zeros_like(row))[0].mean(0), dim=0)

    with torch.no_grad():
        return torch.stack([one(ids) for ids in tokens])


def make_embeddings(model: Tokenizer, weights: Tensors) -> None:
    """In float64, rounded to float32 once."""
    tokens = [model.encode(text).ids for text in SENTENCES]
    exact = embed({name: t.double() for name, t in weights.items()}, tokens)
    difference = (embed(weights, tokens) - exact).abs().max().item()
    print(f"PyTorch in float32 is up to {difference:.1e} away from itself in float64")
    assert difference < 1e-6
    golden = Golden("sentences")
    texts = {f"text{i}": json.dumps(text) for i, text in enumerate(SENTENCES)}
    golden.add("minilm", texts, {}, {}, lambda *_: {"embeddings": exact.float()})
    golden.write()
    for row in exact[:PUBLISHED] @ exact[:PUBLISHED].T:
        print("    {" + ", ".join(f"{similarity:.9f}" for similarity in row) + "},")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--weights", type=Path, default=fetch_wheel.cache_folder() / "all-MiniLM-L6-v2"
    )
    folder = parser.parse_args().weights
    torch.set_num_threads(1)
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    model = make_tokenizer(vocabulary)
    make_tokens(model)
    weights = load_file(folder / "model.safetensors")
    del weights["embeddings.position_ids"]
    make_embeddings(model, weights)


if __name__ == "__main__":
    main()

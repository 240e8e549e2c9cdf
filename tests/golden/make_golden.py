#!/usr/bin/env python3
"""Make the golden fixtures of this folder: what PyTorch answers, for heed to answer too.

Run by hand, only when a case is added; the tests need neither Python nor PyTorch:

    python3 -m venv venv && venv/bin/pip install torch==2.13.0 numpy safetensors
    venv/bin/python tests/golden/make_golden.py

Every case draws its parameters and inputs in float32 from a generator seeded with the case's name,
so a new case leaves the others as they are. PyTorch then computes the outputs in float64 from those
float32 numbers, and they are rounded to float32 once: what a test sees beyond half a unit in the
last place is its own error. A second run in float32 guards the script itself.

README.md describes the files and their names.
"""

import math
import sys
import zlib
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

FOLDER = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(FOLDER.parents[1] / "examples/02_atom_mapping"))
from fetch_weights import safetensors_bytes  # noqa: E402

Tensors = Dict[str, Tensor]
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.int64: "I64", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip


def cast(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    return {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}


def spell(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class Golden:
    """One fixture file."""

    def __init__(self, name: str):
        self.path = FOLDER / f"{name}.safetensors"
        self.tensors: Tensors = {}
        self.settings: Dict[str, str] = {}
        self.cases = []

    def add(
        self,
        case: str,
        settings: Dict[str, Any],
        parameters: Tensors,
        inputs: Tensors,
        compute: Callable[[Tensors, Tensors], Tensors],
        kept_in: torch.dtype = torch.float32,
    ) -> None:
        """Settings of value None are left out; `compute` runs in its arguments' precision."""
        with torch.no_grad():
            outputs = cast(
                compute(cast(parameters, torch.float64), cast(inputs, torch.float64)), kept_in
            )
            torch.testing.assert_close(
                compute(parameters, inputs), cast(outputs, torch.float32), rtol=1e-4, atol=1e-4
            )
        self.keep(case, settings, inputs, outputs, parameters)

    def keep(
        self,
        case: str,
        settings: Dict[str, Any],
        inputs: Tensors,
        outputs: Tensors,
        parameters: Optional[Tensors] = None,
    ) -> None:
        """A case whose outputs are known."""
        for group, tensors in (("param", parameters or {}), ("in", inputs), ("out", outputs)):
            self.tensors.update({f"{case}/{group}/{name}": t for name, t in tensors.items()})
        given = {name: value for name, value in settings.items() if value is not None}
        self.settings.update({f"{case}.{name}": spell(value) for name, value in given.items()})
        self.cases.append(case)

    def write(self, source: str = f"PyTorch {torch.__version__}") -> None:
        metadata = {"source": source, "cases": " ".join(self.cases)}
        tensors = {
            name: (DTYPES[t.dtype], tuple(t.shape), t.contiguous().numpy().tobytes())
            for name, t in self.tensors.items()
        }
        self.path.write_bytes(safetensors_bytes(tensors, {**metadata, **self.settings}))
        written = load_file(self.path)  # read back by the format's own library
        assert written.keys() == self.tensors.keys()
        assert all(torch.equal(written[name], t) for name, t in self.tensors.items())
        size = self.path.stat().st_size
        print(f"{self.path.name}: {len(self.cases)} cases, {len(tensors)} tensors, {size:,} bytes")


class Draw:
    """Random tensors that depend on the case's name alone."""

    def __init__(self, case: str):
        self.generator = torch.Generator().manual_seed(zlib.crc32(case.encode()))

    def normal(self, *shape: int, spread: float = 1.0) -> Tensor:
        return spread * torch.randn(shape, generator=self.generator)

    def chance(self, *shape: int, p: float) -> Tensor:
        return torch.rand(shape, generator=self.generator) < p

    def parameters(self, module: nn.Module) -> Tensors:
        """Values for every parameter; norms near 1, all else large enough to make a difference."""
        result = {}
        for name, parameter in module.state_dict().items():
            value = self.normal(*parameter.shape, spread=0.4)
            is_gain = "norm" in name.lower() and name.endswith("weight")
            result[name] = 1 + value / 2 if is_gain else value
        return result


def filled(module: nn.Module, parameters: Tensors) -> nn.Module:
    """The module in evaluation mode with these parameters and their precision."""
    module = module.to(next(iter(parameters.values())).dtype).eval()
    module.load_state_dict(parameters, strict=True)
    return module


def blocked_to_float(blocked: Tensor, draw: Draw) -> Tensor:
    """A float mask with random finite values and -inf where `blocked`."""
    return draw.normal(*blocked.shape).masked_fill(blocked, -math.inf)


# --- torch.nn.MultiheadAttention --------------------------------------------------------------


def draw_blocked(draw: Draw, batch: int, heads: int, lq: int, lk: int) -> Dict[str, Tensor]:
    """Random masks (True = blocked) under which every query still sees a key."""
    while True:
        masks = {
            "2d": draw.chance(lq, lk, p=0.4),
            "3d": draw.chance(batch * heads, lq, lk, p=0.4),
            "padding": draw.chance(batch, lk, p=0.3),
        }
        per_head = masks["2d"] | masks["3d"].view(batch, heads, lq, lk)
        together = per_head | masks["padding"][:, None, None, :]
        if masks["padding"].any() and not together.all(-1).any():
            return masks


def multi_head_attention_case(
    golden: Golden,
    case: str,
    *,
    batch: Optional[int] = 2,  # None: a 2-D input
    lq: int = 3,
    lk: Optional[int] = None,  # None: self-attention
    padding: Optional[str] = None,  # "bool" or "float"
    mask: Optional[str] = None,  # "bool 2d", "float 3d", "causal", ...
    need_weights: bool = True,
    average_attn_weights: bool = True,
    is_causal: bool = False,
    **arguments: Any,
) -> None:
    arguments = {"embed_dim": 8, "num_heads": 2, "batch_first": True, **arguments}
    draw = Draw(case)
    heads = arguments["num_heads"]
    query = draw.normal(batch or 1, lq, arguments["embed_dim"])
    inputs = {"query": query, "key": query, "value": query}
    if lk is not None:
        inputs["key"] = draw.normal(batch or 1, lk, arguments.get("kdim", arguments["embed_dim"]))
        inputs["value"] = draw.normal(batch or 1, lk, arguments.get("vdim", arguments["embed_dim"]))
    lk = lk or lq
    if batch is None:
        inputs = {name: t[0] for name, t in inputs.items()}
    elif not arguments["batch_first"]:
        inputs = {name: t.transpose(0, 1).contiguous() for name, t in inputs.items()}
    blocked = {
        "causal": torch.ones(lq, lk, dtype=torch.bool).triu(1),
        "all": torch.ones(lq, lk, dtype=torch.bool),
    }
    if padding or mask:
        blocked.update(draw_blocked(draw, batch or 1, heads, lq, lk))
    if padding:
        chosen = blocked["padding"] if batch else blocked["padding"][0]
        inputs["key_padding_mask"] = (
            chosen if padding == "bool" else blocked_to_float(chosen, draw)
        )
    if mask:
        kind, _, dims = mask.partition(" ")
        chosen = blocked[dims or kind]
        inputs["attn_mask"] = blocked_to_float(chosen, draw) if kind == "float" else chosen

    def compute(parameters: Tensors, given: Tensors) -> Tensors:
        module = filled(nn.MultiheadAttention(**arguments), parameters)
        output, weights = module(
            **given,
            need_weights=need_weights,
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )
        return {"output": output} if weights is None else {"output": output, "weights": weights}

    module = nn.MultiheadAttention(**arguments)
    settings = {
        "embed_dim": module.embed_dim,
        "num_heads": heads,
        "kdim": module.kdim,
        "vdim": module.vdim,
        "bias": arguments.get("bias", True),
        "add_bias_kv": arguments.get("add_bias_kv", False),
        "add_zero_attn": module.add_zero_attn,
        "batch_first": module.batch_first,
        "need_weights": need_weights,
        "average_attn_weights": average_attn_weights,
        "is_causal": is_causal,
    }
    golden.add(case, settings, draw.parameters(module), inputs, compute)


MULTI_HEAD_ATTENTION_CASES: Dict[str, Dict[str, Any]] = {
    "self": {},
    "one_head": dict(num_heads=1),
    "four_heads": dict(num_heads=4, lq=5),
    "head_dim_one": dict(embed_dim=3, num_heads=3),
    "no_bias": dict(bias=False),
    "sequence_first": dict(batch_first=False),
    "unbatched": dict(batch=None),
    "unbatched_sequence_first": dict(batch=None, batch_first=False),
    "one_token": dict(lq=1),
    "no_weights": dict(need_weights=False),
    "weights_per_head": dict(average_attn_weights=False),
    "unbatched_weights_per_head": dict(batch=None, average_attn_weights=False),
    "cross": dict(lq=3, lk=5),
    "cross_one_query": dict(lq=1, lk=6),
    "cross_one_key": dict(lq=4, lk=1),
    "kdim": dict(lk=4, kdim=5),
    "vdim": dict(lk=4, vdim=6),
    "kdim_vdim": dict(lk=4, kdim=5, vdim=6),
    "kdim_vdim_no_bias": dict(lk=4, kdim=5, vdim=6, bias=False),
    "bias_kv": dict(add_bias_kv=True),
    "bias_kv_kdim_vdim": dict(add_bias_kv=True, lk=4, kdim=5, vdim=6),
    "zero_attn": dict(add_zero_attn=True),
    "bias_kv_zero_attn": dict(add_bias_kv=True, add_zero_attn=True, average_attn_weights=False),
    "bias_kv_no_bias": dict(add_bias_kv=True, bias=False),
    "padding_bool": dict(lq=4, padding="bool"),
    "padding_float": dict(lq=4, padding="float"),
    "mask_bool": dict(lq=4, mask="bool 2d"),
    "mask_float": dict(lq=4, mask="float 2d"),
    "mask_bool_per_head": dict(lq=4, mask="bool 3d", average_attn_weights=False),
    "mask_float_per_head": dict(lq=4, mask="float 3d", average_attn_weights=False),
    "causal_mask": dict(lq=5, mask="causal"),
    "causal_hint": dict(lq=5, mask="causal", is_causal=True),
    "causal_hint_no_weights": dict(lq=5, mask="causal", is_causal=True, need_weights=False),
    "causal_hint_fewer_queries": dict(
        lq=3, lk=5, mask="causal", is_causal=True, need_weights=False
    ),
    "causal_hint_padding": dict(lq=5, mask="causal", is_causal=True, padding="bool"),
    "padding_bool_mask_bool": dict(lq=4, padding="bool", mask="bool 2d"),
    "padding_float_mask_float": dict(lq=4, padding="float", mask="float 2d"),
    "padding_bool_mask_float_per_head": dict(lq=4, lk=5, padding="bool", mask="float 3d"),
    "unbatched_padding_mask": dict(batch=None, lq=4, padding="bool", mask="bool 2d"),
    "unbatched_mask_per_head": dict(batch=None, lq=4, mask="bool 3d"),
    "bias_kv_padding_mask": dict(add_bias_kv=True, lq=4, padding="bool", mask="bool 2d"),
    "bias_kv_zero_attn_padding_mask_per_head": dict(
        add_bias_kv=True, add_zero_attn=True, lq=4, lk=5, padding="bool", mask="bool 3d"
    ),
    "zero_attn_all_blocked": dict(add_zero_attn=True, mask="all", average_attn_weights=False),
    "everything": dict(
        embed_dim=12, num_heads=3, kdim=5, vdim=7, add_bias_kv=True, add_zero_attn=True, lq=4, lk=6,
        batch_first=False, padding="float", mask="float 3d", average_attn_weights=False,
    ),
}  # fmt: skip


def make_multi_head_attention() -> None:
    golden = Golden("mha")
    for case, arguments in MULTI_HEAD_ATTENTION_CASES.items():
        multi_head_attention_case(golden, case, **arguments)
    golden.write()


# --- BERT self-attention ----------------------------------------------------------------------


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, L, E] -> [B, H, L, D]"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, H, L, D] -> [B, L, E]"""
    return x.transpose(1, 2).flatten(2)


def bert_attention(parameters: Tensors, inputs: Tensors, heads: int) -> Tensors:
    def project(name: str, x: Tensor) -> Tensor:
        y = F.linear(x, parameters[f"{name}.weight"], parameters[f"{name}.bias"])
        return split_heads(y, heads)

    source = inputs.get("encoder_hidden_states", inputs["hidden_states"])
    query = project("query", inputs["hidden_states"])
    key, value = project("key", source), project("value", source)
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if "attention_mask" in inputs:
        scores = scores + inputs["attention_mask"]
    probabilities = scores.softmax(-1)
    return {"context": merge_heads(probabilities @ value), "probabilities": probabilities}


def additive(visible: Tensor) -> Tensor:
    """What Hugging Face adds to the scores: 0 where visible, the lowest float elsewhere."""
    return torch.where(visible, 0.0, torch.finfo(torch.float32).min)


def make_bert() -> None:
    golden = Golden("bert")
    batch, length, width, heads = 2, 5, 8, 2
    lengths = torch.tensor([5, 3])
    padded = (torch.arange(length) < lengths[:, None])[:, None, None, :]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    all_padded = padded & torch.tensor([True, False])[:, None, None, None]
    masks = {
        "plain": None,
        "padded": additive(padded),
        "all_keys_padded": additive(all_padded),
        "padded_causal": additive(padded & causal),
    }
    layer = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})

    def add(case: str, inputs: Tensors, draw: Draw) -> None:
        golden.add(
            case,
            {"num_attention_heads": heads, "hidden_size": width},
            draw.parameters(layer),
            inputs,
            lambda parameters, given: bert_attention(parameters, given, heads),
        )

    for case, mask in masks.items():
        draw = Draw(f"bert {case}")
        inputs = {"hidden_states": draw.normal(batch, length, width)}
        if mask is not None:
            inputs["attention_mask"] = mask
        add(case, inputs, draw)
    draw = Draw("bert cross")
    cross = {
        "hidden_states": draw.normal(batch, 3, width),
        "encoder_hidden_states": draw.normal(batch, length, width),
        "attention_mask": additive(padded),
    }
    add("cross_padded", cross, draw)
    golden.write()


# --- ViT attention as timm has it -------------------------------------------------------------


def timm_attention(
    parameters: Tensors, inputs: Tensors, heads: int, scale: float, eps: float
) -> Tensors:
    x = inputs["x"]
    batch, length, width = x.shape
    qkv = F.linear(x, parameters["qkv.weight"], parameters.get("qkv.bias"))
    q, k, v = qkv.reshape(batch, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    if "q_norm.weight" in parameters:
        size = (width // heads,)
        q = F.layer_norm(q, size, parameters["q_norm.weight"], parameters["q_norm.bias"], eps)
        k = F.layer_norm(k, size, parameters["k_norm.weight"], parameters["k_norm.bias"], eps)
    weights = (q * scale @ k.transpose(-2, -1)).softmax(-1)
    merged = merge_heads(weights @ v)
    output = F.linear(merged, parameters["proj.weight"], parameters["proj.bias"])
    return {"output": output, "weights": weights}


def make_timm() -> None:
    golden = Golden("timm")
    cases: Dict[str, Dict[str, Any]] = {
        "default": {},
        "qkv_bias": dict(qkv_bias=True),
        "qk_norm": dict(qk_norm=True),
        "qkv_bias_qk_norm": dict(qkv_bias=True, qk_norm=True, num_heads=4),
        "qk_scale": dict(qkv_bias=True, qk_scale=0.25),
        "one_head": dict(num_heads=1),
    }
    for case, arguments in cases.items():
        settings = {
            "dim": 12, "num_heads": 3, "qkv_bias": False, "qk_norm": False, "qk_scale": None,
            **arguments,
        }  # fmt: skip
        dim, heads = settings["dim"], settings["num_heads"]
        qkv = nn.Linear(dim, 3 * dim, bias=settings["qkv_bias"])
        modules = {"qkv": qkv, "proj": nn.Linear(dim, dim)}
        eps = None
        if settings["qk_norm"]:
            eps = settings["qk_norm_eps"] = 1e-6
            modules["q_norm"] = nn.LayerNorm(dim // heads)
            modules["k_norm"] = nn.LayerNorm(dim // heads)
        scale = settings["qk_scale"] or (dim // heads) ** -0.5
        draw = Draw(f"timm {case}")
        golden.add(
            case,
            settings,
            draw.parameters(nn.ModuleDict(modules)),
            {"x": draw.normal(2, 5, dim)},
            lambda p, given, h=heads, s=scale, e=eps: timm_attention(p, given, h, s, e),
        )
    golden.write()


# --- torch.nn.TransformerEncoderLayer ---------------------------------------------------------


def make_encoder_layer() -> None:
    golden = Golden("encoder_layer")
    batch, length = 2, 4
    cases: Dict[str, Dict[str, Any]] = {}
    for norm_first in (False, True):
        for activation in ("relu", "gelu"):
            order = "pre" if norm_first else "post"
            arguments = dict(norm_first=norm_first, activation=activation)
            cases[f"{order}_norm_{activation}"] = arguments
            cases[f"{order}_norm_{activation}_masked"] = {**arguments, "masked": True}
    cases["sequence_first_masked"] = dict(batch_first=False, masked=True)
    cases["no_bias"] = dict(bias=False)
    cases["eps"] = dict(layer_norm_eps=1e-2, norm_first=True, activation="gelu")
    for case, chosen in cases.items():
        arguments = {
            "d_model": 8, "nhead": 2, "dim_feedforward": 12, "activation": "relu",
            "norm_first": False, "layer_norm_eps": 1e-5, "batch_first": True, "bias": True,
            **chosen,
        }  # fmt: skip
        masked = arguments.pop("masked", False)
        draw = Draw(f"encoder layer {case}")
        src = draw.normal(batch, length, arguments["d_model"])
        inputs = {"src": src if arguments["batch_first"] else src.transpose(0, 1).contiguous()}
        if masked:
            blocked = draw_blocked(draw, batch, arguments["nhead"], length, length)
            inputs["src_mask"] = blocked["2d"]
            inputs["src_key_padding_mask"] = blocked["padding"]
        golden.add(
            case,
            arguments,
            draw.parameters(nn.TransformerEncoderLayer(**arguments)),
            inputs,
            lambda p, given, a=arguments: {
                "output": filled(nn.TransformerEncoderLayer(**a), p)(**given)
            },
        )
    golden.write()


# --- torch.nn.TransformerEncoder --------------------------------------------------------------


def transformer_encoder(num_layers: int, norm: bool, **layer: Any) -> nn.TransformerEncoder:
    behind = nn.LayerNorm(layer["d_model"], layer["layer_norm_eps"]) if norm else None
    return nn.TransformerEncoder(
        nn.TransformerEncoderLayer(**layer), num_layers, behind, enable_nested_tensor=False
    )


TRANSFORMER_ENCODER_CASES: Dict[str, Dict[str, Any]] = {
    "post_norm_relu": dict(num_layers=2),
    "post_norm_gelu_behind_masked": dict(num_layers=3, activation="gelu", norm=True, masked=True),
    "pre_norm_relu_behind": dict(num_layers=2, norm_first=True, norm=True),
    "pre_norm_gelu_masked": dict(num_layers=1, norm_first=True, activation="gelu", masked=True),
}


def make_transformer_encoder() -> None:
    """Batch first; kept in float64."""
    golden = Golden("transformer_encoder")
    batch, length = 2, 4
    for case, chosen in TRANSFORMER_ENCODER_CASES.items():
        arguments = {
            "d_model": 8, "nhead": 2, "dim_feedforward": 12, "activation": "relu",
            "norm_first": False, "layer_norm_eps": 1e-5, "batch_first": True, "norm": False,
            **chosen,
        }  # fmt: skip
        masked = arguments.pop("masked", False)
        draw = Draw(f"transformer encoder {case}")
        inputs = {"src": draw.normal(batch, length, arguments["d_model"])}
        if masked:
            blocked = draw_blocked(draw, batch, arguments["nhead"], length, length)
            inputs["mask"] = blocked["2d"]
            inputs["src_key_padding_mask"] = blocked["padding"]
        golden.add(
            case,
            arguments,
            draw.parameters(transformer_encoder(**arguments)),
            inputs,
            lambda p, given, a=arguments: {
                "output": filled(transformer_encoder(**a), p)(**given)
            },
            kept_in=torch.float64,
        )
    golden.write()


# --- BERT as Hugging Face has it --------------------------------------------------------------


def linear_and_norm(inputs: int, outputs: int, eps: float) -> nn.ModuleDict:
    return nn.ModuleDict(
        {"dense": nn.Linear(inputs, outputs), "LayerNorm": nn.LayerNorm(outputs, eps)}
    )


class BertLayer(nn.Module):
    def __init__(self, hidden_size: int, heads: int, intermediate_size: int, eps: float):
        super().__init__()
        projections = {n: nn.Linear(hidden_size, hidden_size) for n in ("query", "key", "value")}
        self.heads = heads
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict(projections),
                "output": linear_and_norm(hidden_size, hidden_size, eps),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(hidden_size, intermediate_size)})
        self.output = linear_and_norm(intermediate_size, hidden_size, eps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        attention, output = self.attention["self"], self.attention["output"]
        q, k, v = (split_heads(attention[n](x), self.heads) for n in ("query", "key", "value"))
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + mask).softmax(-1)
        x = output["LayerNorm"](output["dense"](merge_heads(weights @ v)) + x)
        hidden = F.gelu(self.intermediate["dense"](x))
        return self.output["LayerNorm"](self.output["dense"](hidden) + x)


class BertModel(nn.Module):
    """Written from the definition of Hugging Face's BertModel, with its parameter names."""

    def __init__(self, **config: Any):
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config["vocab_size"], width),
                "position_embeddings": nn.Embedding(config["max_position_embeddings"], width),
                "token_type_embeddings": nn.Embedding(config["type_vocab_size"], width),
                "LayerNorm": nn.LayerNorm(width, eps),
            }
        )
        layers = [
            BertLayer(width, config["num_attention_heads"], config["intermediate_size"], eps)
            for _ in range(config["num_hidden_layers"])
        ]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(width, width)})

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        table = self.embeddings
        x = table["word_embeddings"](input_ids) + table["token_type_embeddings"](token_type_ids)
        x = x + table["position_embeddings"](torch.arange(input_ids.shape[1]))
        x = table["LayerNorm"](x)
        mask = additive(attention_mask)[:, None, None, :].to(x.dtype)
        for layer in self.encoder["layer"]:
            x = layer(x, mask)
        return x

    def pool(self, hidden: Tensor) -> Tensor:
        return self.pooler["dense"](hidden[:, 0]).tanh()


BERT_CONFIG = {
    "vocab_size": 17, "hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 3,
    "intermediate_size": 20, "max_position_embeddings": 9, "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}  # fmt: skip


def bert_inputs(draw: Draw, lengths: List[int], types: bool) -> Tensors:
    """Random tokens, and padding of id 0 behind them."""
    visible = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(1, BERT_CONFIG["vocab_size"], visible.shape, generator=draw.generator)
    chosen = draw.chance(*visible.shape, p=0.5) & visible & types
    return {
        "input_ids": ids * visible,
        "attention_mask": visible,
        "token_type_ids": chosen.to(torch.int64),
    }


def make_bert_model() -> None:
    """Kept in float64."""
    golden = Golden("bert_model")
    cases = {"one": ([5], False), "padded": ([7, 2, 9, 1, 6], False), "types": ([4, 6], True)}
    for case, (lengths, types) in cases.items():
        draw = Draw(f"bert model {case}")

        def compute(parameters: Tensors, given: Tensors) -> Tensors:
            model = filled(BertModel(**BERT_CONFIG), parameters)
            hidden = model(**given)
            return {"last_hidden_state": hidden, "pooler_output": model.pool(hidden)}

        golden.add(
            case,
            BERT_CONFIG,
            draw.parameters(BertModel(**BERT_CONFIG)),
            bert_inputs(draw, lengths, types),
            compute,
            kept_in=torch.float64,
        )
    golden.write()


# --- Gradients --------------------------------------------------------------------------------


Forward = Callable[[nn.Module, Tensors], Tensor]


def gradients(module: nn.Module, parameters: Tensors, inputs: Tensors, forward: Forward) -> Tensors:
    """By autograd, of sum(output * d_output): of floating inputs as d_<name>, of parameters as
    grad/<name>."""
    d_output = inputs["d_output"]
    module = filled(module, parameters)
    leaves = {n: t.clone() for n, t in inputs.items() if n != "d_output"}
    wanted = {n: t.requires_grad_() for n, t in leaves.items() if t.is_floating_point()}
    with torch.enable_grad():
        forward(module, leaves).backward(d_output)
    result = {f"d_{name}": leaf.grad for name, leaf in wanted.items()}
    used = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    result.update({f"grad/{name}": gradient for name, gradient in used.items()})
    return result


def make_gradients() -> None:
    """Batch first; kept in float64, so that a test in double sees its own error alone."""
    golden = Golden("gradients")
    batch, lq, heads = 2, 3, 2

    def add(case: str, create: Callable[[], nn.Module], settings: Dict[str, Any], inputs: Tensors,
            draw: Draw, forward: Forward) -> None:  # fmt: skip
        width = next(iter(inputs.values())).shape[-1]
        given = {**inputs, "d_output": draw.normal(batch, lq, width)}
        golden.add(
            case, settings, draw.parameters(create()), given,
            lambda p, g: gradients(create(), p, g, forward), kept_in=torch.float64,
        )  # fmt: skip

    attention_cases: Dict[str, Dict[str, Any]] = {
        "mha_self": dict(lk=lq),
        "mha_cross_masked": dict(lk=4, masked=True),
        "mha_kdim_vdim": dict(lk=4, kdim=5, vdim=3),
        "mha_bias_kv": dict(lk=lq, add_bias_kv=True),
        "mha_bias_kv_zero_attn_masked": dict(
            lk=4, add_bias_kv=True, add_zero_attn=True, bias=False, masked=True
        ),
    }
    for case, chosen in attention_cases.items():
        draw, lk, masked = Draw(f"gradients {case}"), chosen.pop("lk"), chosen.pop("masked", False)
        arguments = {"embed_dim": 6, "num_heads": heads, "batch_first": True, **chosen}
        module = nn.MultiheadAttention(**arguments)
        inputs = {
            "query": draw.normal(batch, lq, module.embed_dim),
            "key": draw.normal(batch, lk, module.kdim),
            "value": draw.normal(batch, lk, module.vdim),
        }
        if case in ("mha_self", "mha_bias_kv"):
            inputs["key"] = inputs["value"] = inputs["query"]
        if masked:
            blocked = draw_blocked(draw, batch, heads, lq, lk)
            inputs["attn_mask"] = blocked["2d"]
            inputs["key_padding_mask"] = blocked["padding"]
        settings = {
            "embed_dim": module.embed_dim, "num_heads": heads, "kdim": module.kdim,
            "vdim": module.vdim, "bias": arguments.get("bias", True),
            "add_bias_kv": arguments.get("add_bias_kv", False),
            "add_zero_attn": module.add_zero_attn,
        }  # fmt: skip
        add(case, lambda a=arguments: nn.MultiheadAttention(**a), settings, inputs, draw,
            lambda module, given: module(**given, need_weights=False)[0])  # fmt: skip

    for order, norm_first in (("post", False), ("pre", True)):
        for activation in ("relu", "gelu"):
            case = f"encoder_layer_{order}_norm_{activation}"
            draw = Draw(f"gradients {case}")
            arguments = {
                "d_model": 6, "nhead": heads, "dim_feedforward": 5, "activation": activation,
                "norm_first": norm_first, "batch_first": True,
            }  # fmt: skip
            inputs = {"src": draw.normal(batch, lq, arguments["d_model"])}
            if activation == "gelu":
                blocked = draw_blocked(draw, batch, heads, lq, lq)
                inputs["src_mask"] = blocked["2d"]
                inputs["src_key_padding_mask"] = blocked["padding"]
            add(case, lambda a=arguments: nn.TransformerEncoderLayer(**a), arguments, inputs, draw,
                lambda module, given: module(**given))  # fmt: skip

    for order, norm_first, norm in (("post", False, False), ("pre", True, True)):
        case = f"transformer_encoder_{order}_norm"
        draw = Draw(f"gradients {case}")
        arguments = {
            "d_model": 6, "nhead": heads, "dim_feedforward": 5, "activation": "gelu",
            "norm_first": norm_first, "layer_norm_eps": 1e-5, "batch_first": True,
            "num_layers": 3, "norm": norm,
        }  # fmt: skip
        blocked = draw_blocked(draw, batch, heads, lq, lq)
        inputs = {
            "src": draw.normal(batch, lq, arguments["d_model"]),
            "mask": blocked["2d"],
            "src_key_padding_mask": blocked["padding"],
        }
        add(case, lambda a=arguments: transformer_encoder(**a), arguments, inputs, draw,
            lambda module, given: module(**given))  # fmt: skip

    draw = Draw("gradients bert_model")
    given = bert_inputs(draw, [4, 9, 1], types=True)
    hidden = draw.normal(*given["input_ids"].shape, BERT_CONFIG["hidden_size"])
    given["d_output"] = hidden * given["attention_mask"][..., None]
    golden.add(
        "bert_model",
        BERT_CONFIG,
        draw.parameters(BertModel(**BERT_CONFIG)),
        given,
        lambda p, g: gradients(BertModel(**BERT_CONFIG), p, g, lambda model, g: model(**g)),
        kept_in=torch.float64,
    )
    golden.write()


# --- Functions --------------------------------------------------------------------------------


def make_ops() -> None:
    golden = Golden("ops")
    draw = Draw("ops")
    x = draw.normal(3, 7)
    far = torch.tensor([0.0, -0.0, 1e-20, -1e-20, 0.5, -0.5, 3.0, -3.0, 5.5, -5.5, 12.0, -12.0,
                        40.0, -40.0, 90.0, -90.0, 1e4, -1e4])  # fmt: skip
    gain, shift = 1 + draw.normal(7, spread=0.2), draw.normal(7)
    scores = torch.stack([draw.normal(7), draw.normal(7, spread=1e4), 80 + draw.normal(7)])
    holes = scores.masked_fill(draw.chance(3, 7, p=0.4), -math.inf)
    matrix, offset = draw.normal(4, 7), draw.normal(4)

    def add(case: str, parameters: Tensors, inputs: Tensors, function: Callable, **settings: Any):
        def compute(p: Tensors, given: Tensors) -> Tensors:
            return {"output": function(*given.values(), **p, **settings)}

        golden.add(case, settings, parameters, inputs, compute)

    def layer_norm(given: Tensor, **arguments: Any) -> Tensor:
        return F.layer_norm(given, given.shape[-1:], **arguments)

    def rms_norm(given: Tensor, **arguments: Any) -> Tensor:
        return F.rms_norm(given, given.shape[-1:], **arguments)

    add("layer_norm", dict(weight=gain, bias=shift), {"x": x}, layer_norm, eps=1e-5)
    add("layer_norm_no_bias", dict(weight=gain), {"x": x}, layer_norm, eps=1e-12)
    add("layer_norm_plain", {}, {"x": x}, layer_norm, eps=1e-2)
    add("layer_norm_far_mean", {}, {"x": 1000 + x}, layer_norm, eps=1e-5)
    add("rms_norm", dict(weight=gain), {"x": x}, rms_norm, eps=1e-6)
    add("rms_norm_plain", {}, {"x": x}, rms_norm, eps=1e-2)
    for case, points in (("", x), ("_far", far)):
        add(f"gelu{case}", {}, {"x": points}, F.gelu, approximate="none")
        add(f"gelu_tanh{case}", {}, {"x": points}, F.gelu, approximate="tanh")
        add(f"silu{case}", {}, {"x": points}, F.silu)
        add(f"relu{case}", {}, {"x": points}, F.relu)
    add("softmax", {}, {"x": scores}, F.softmax, dim=-1)
    add("softmax_holes", {}, {"x": holes}, F.softmax, dim=-1)
    add("logsumexp", {}, {"x": scores}, torch.logsumexp, dim=-1)
    add("logsumexp_holes", {}, {"x": holes}, torch.logsumexp, dim=-1)
    add("linear", dict(weight=matrix, bias=offset), {"x": x}, F.linear)
    add("linear_no_bias", dict(weight=matrix), {"x": x}, F.linear)
    ids = torch.tensor([[3, 0, 1], [1, 1, 2]])
    add("embedding", dict(weight=matrix), {"ids": ids}, F.embedding)
    golden.write()


# --- torch.nn.functional.scaled_dot_product_attention -----------------------------------------


def attention(_: Tensors, inputs: Tensors, settings: Dict[str, Any]) -> Tensors:
    """The library's output, and beside it the log-sum-exp of the rows, which it keeps to itself."""
    q, k, v = inputs["query"], inputs["key"], inputs["value"]
    mask = inputs.get("attn_mask")
    output = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **settings)
    scale = settings.get("scale", q.shape[-1] ** -0.5)
    repeats = q.shape[1] // k.shape[1]
    scores = scale * q @ k.repeat_interleave(repeats, 1).transpose(-1, -2)
    if settings.get("is_causal"):
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        boolean = mask.dtype == torch.bool
        scores = scores.masked_fill(~mask, -math.inf) if boolean else scores + mask
    log_sum_exp = scores.logsumexp(-1)
    weights = (scores - log_sum_exp[..., None]).exp().nan_to_num(0.0)
    expected = weights @ v.repeat_interleave(repeats, 1)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=2e-6)
    return {"output": output, "log_sum_exp": log_sum_exp}


def make_scaled_dot_product_attention() -> None:
    golden = Golden("sdpa")

    def add(case: str, *, sizes: Dict[str, int] = {}, mask: Optional[Callable] = None,
            **settings: Any) -> None:  # fmt: skip
        b, h, hk, lq, lk, d, dv = (
            {"B": 2, "H": 2, "Hk": 2, "Lq": 4, "Lk": 4, "D": 3, "Dv": 3, **sizes}
        ).values()  # fmt: skip
        draw = Draw(f"sdpa {case}")
        inputs = {
            "query": draw.normal(b, h, lq, d),
            "key": draw.normal(b, hk, lk, d),
            "value": draw.normal(b, hk, lk, dv),
        }
        if mask:
            inputs["attn_mask"] = mask(draw, b, h, lq, lk)
        golden.add(case, settings, {}, inputs, lambda p, given: attention(p, given, settings))

    def visible_2d(draw: Draw, b: int, h: int, lq: int, lk: int) -> Tensor:
        return ~draw_blocked(draw, b, h, lq, lk)["2d"]

    def visible_4d(draw: Draw, b: int, h: int, lq: int, lk: int) -> Tensor:
        return ~draw_blocked(draw, b, h, lq, lk)["3d"].view(b, h, lq, lk)

    def visible_keys(draw: Draw, b: int, h: int, lq: int, lk: int) -> Tensor:
        return ~draw_blocked(draw, b, h, lq, lk)["padding"][:, None, None, :]

    def bias_2d(draw: Draw, b: int, h: int, lq: int, lk: int) -> Tensor:
        return draw.normal(lq, lk)

    def bias_per_head(draw: Draw, b: int, h: int, lq: int, lk: int) -> Tensor:
        return draw.normal(1, h, lq, lk)

    def bias_with_holes(draw: Draw, b: int, h: int, lq: int, lk: int) -> Tensor:
        return blocked_to_float(~visible_4d(draw, b, h, lq, lk), draw)

    def one_row_empty(draw: Draw, b: int, h: int, lq: int, lk: int) -> Tensor:
        return visible_2d(draw, b, h, lq, lk) & (torch.arange(lq) != 1)[:, None]

    def bottom_right(draw: Draw, b: int, h: int, lq: int, lk: int) -> Tensor:
        return torch.ones(lq, lk, dtype=torch.bool).tril(lk - lq)

    fewer_queries, more_queries = {"Lq": 3, "Lk": 6}, {"Lq": 6, "Lk": 3}
    grouped = {"H": 6, "Hk": 2}
    add("plain")
    add("one_query", sizes={"Lq": 1, "Lk": 7})
    add("one_key", sizes={"Lk": 1})
    add("wide_values", sizes={"Dv": 5})
    add("narrow_values", sizes={"D": 5, "Dv": 1})
    add("scale", scale=0.3125)
    add("scale_zero", scale=0.0)
    add("scale_negative", scale=-0.6875)
    add("causal", is_causal=True)
    add("causal_top_left_fewer_queries", sizes=fewer_queries, is_causal=True)
    add("causal_top_left_more_queries", sizes=more_queries, is_causal=True)
    add("causal_bottom_right_fewer_queries", sizes=fewer_queries, mask=bottom_right)
    add("causal_bottom_right_more_queries", sizes=more_queries, mask=bottom_right)
    add("mask_bool", sizes=fewer_queries, mask=visible_2d)
    add("mask_bool_4d", sizes=fewer_queries, mask=visible_4d)
    add("mask_bool_keys", sizes=fewer_queries, mask=visible_keys)
    add("mask_bool_empty_row", mask=one_row_empty)
    add("mask_float", sizes=fewer_queries, mask=bias_2d)
    add("mask_float_per_head", sizes=fewer_queries, mask=bias_per_head)
    add("mask_float_holes", sizes=fewer_queries, mask=bias_with_holes)
    add("grouped", sizes=grouped, enable_gqa=True)
    add("multi_query", sizes={"H": 4, "Hk": 1}, enable_gqa=True)
    add("grouped_causal", sizes=grouped, is_causal=True, enable_gqa=True)
    grouped_fewer = {**grouped, **fewer_queries}
    add("grouped_mask_float", sizes=grouped_fewer, mask=bias_per_head, enable_gqa=True)
    add("everything", sizes={**grouped_fewer, "Dv": 5}, mask=bias_with_holes, scale=0.875,
        enable_gqa=True)  # fmt: skip
    golden.write()


def main() -> None:
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)  # one definition for every case
    make_multi_head_attention()
    make_bert()
    make_timm()
    make_encoder_layer()
    make_transformer_encoder()
    make_bert_model()
    make_gradients()
    make_ops()
    make_scaled_dot_product_attention()


if __name__ == "__main__":
    main()

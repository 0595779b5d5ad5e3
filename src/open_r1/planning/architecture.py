"""The sizes of a model, as its config.json gives them -> parameters, bytes and FLOP for a token.

Dimensions: H hidden, Q query heads x head size, K key/value heads x head size, I intermediate, L layers, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from open_r1.wording import closest

DENSE_MODELS = ("llama", "qwen2", "qwen3")
MODEL_TYPES = (*DENSE_MODELS, "deepseek_v3")


@dataclass(frozen=True)
class LatentAttention:
    """DeepSeek's attention: keys and values are kept as one short vector a token (arXiv 2405.04434, section 2.1)."""

    query_rank: int
    key_value_rank: int
    rope_size: int
    plain_size: int
    """Of a head's query and key, the part without rotary embedding."""
    value_size: int


@dataclass(frozen=True)
class Experts:
    """The experts of a layer, of which each token uses a few (arXiv 2412.19437, section 2.1.2)."""

    num_routed: int
    num_used: int
    num_shared: int
    intermediate: int
    num_dense_layers: int
    """The first layers have no experts."""


@dataclass(frozen=True)
class Architecture:
    """A decoder of transformers' llama, qwen2, qwen3 or deepseek_v3."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int
    tied: bool
    """Input and output embeddings are the same weights."""
    head_size: int = 0
    """0: hidden / heads."""
    attention_bias: bool = False
    """Queries, keys and values have a bias (qwen2)."""
    query_norms: bool = False
    """Queries and keys are normed, head by head (qwen3)."""
    max_positions: int | None = None
    latent: LatentAttention | None = None
    experts: Experts | None = None
    rewards: bool = False
    """A reward model: one output for a whole text in the place of the LM head."""

    @property
    def queries(self) -> int:
        return (self.head_size or self.hidden // self.heads) * self.heads

    @property
    def key_values(self) -> int:
        return (self.head_size or self.hidden // self.heads) * self.key_value_heads

    @property
    def attention_linears(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of the linear layers of attention: q, k, v, o, or the low-rank ones of DeepSeek."""
        h, latent = self.hidden, self.latent
        if latent is None:
            return [(h, self.queries), (h, self.key_values), (h, self.key_values), (self.queries, h)]
        query = latent.plain_size + latent.rope_size
        return [
            (h, latent.query_rank),
            (latent.query_rank, self.heads * query),
            (h, latent.key_value_rank + latent.rope_size),
            (latent.key_value_rank, self.heads * (latent.plain_size + latent.value_size)),
            (self.heads * latent.value_size, h),
        ]

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of the linear layers of one dense decoder layer: attention's, gate, up, down."""
        h, i = self.hidden, self.intermediate
        return [*self.attention_linears, (h, i), (h, i), (i, h)]

    @property
    def num_parameters(self) -> int:
        """All of them, tied ones once; DeepSeek's without the layer that predicts a second token."""
        return self._parameters(self.experts.num_routed if self.experts else 0)

    @property
    def num_active_parameters(self) -> int:
        """Those that one token meets: of the experts only the ones that it is sent to."""
        return self._parameters(self.experts.num_used if self.experts else 0)

    @property
    def num_multiplied(self) -> int:
        """N of 6 N FLOP a token: active ones that it is multiplied with; looking an embedding up costs nothing."""
        looked_up = self.rewards or not self.tied
        return self.num_active_parameters - (self.vocabulary * self.hidden if looked_up else 0)

    @property
    def num_vocabulary_matrices(self) -> int:
        """Matrices of the vocabulary's size, tied ones counted twice: what no layer has."""
        return 1 if self.rewards else 2

    def num_lora_parameters(self, rank: int) -> int:
        """Adapters on every linear layer of a dense model; of a reward model its new head too, trained as it is."""
        adapters = self.layers * sum(rank * (inputs + outputs) for inputs, outputs in self.linears)
        return adapters + (self.hidden if self.rewards else 0)

    def num_parameters_read(self, tokens_at_once: float) -> float:
        """Parameters that a decoding step of so many tokens reads: the experts that none of them is sent to stay out.

        Takes it that experts are hit evenly, as DeepSeek's balancing is for.
        """
        if self.experts is None:
            return self.num_parameters
        experts = self.experts
        hit = 1 - (1 - experts.num_used / experts.num_routed) ** max(1.0, tokens_at_once)
        return self._parameters(experts.num_routed * hit)

    @property
    def key_value_bytes_per_token(self) -> int:
        """Of the KV cache, in bf16."""
        if self.latent is not None:
            return 2 * self.layers * (self.latent.key_value_rank + self.latent.rope_size)
        return 2 * 2 * self.layers * self.key_values

    def attention_flop(self, context: float) -> float:
        """FLOP of a forward pass for one token that looks at `context` tokens: scores and their sum, all layers."""
        size = self.queries
        if self.latent is not None:
            size = self.heads * (self.latent.plain_size + self.latent.rope_size + self.latent.value_size) / 2
        return 4 * context * size * self.layers

    def layer_bytes_per_token(self, residual_bytes: int, autocast: bool = True) -> int:
        """What one decoder layer keeps per token for its backward pass, but for its input and its weights.

        Norms are computed in fp32, matrix products in bf16, or in fp32 if the residual stream is and nothing is cast.
        Adapters keep the inputs that their frozen linear layers need not. A MoE is taken for a dense layer as wide as
        the experts that a token uses, which nobody has measured.
        """
        h, q, k, i = self.hidden, self.queries, self.key_values, self.intermediate_used
        if residual_bytes == 2:
            kept, of_norms = 16 * h + 4 * q + 6 * k + 8 * i, 6
        elif autocast:
            kept, of_norms = 22 * h + 4 * q + 8 * k + 8 * i, 6
        else:
            kept, of_norms = 20 * h + 8 * q + 12 * k + 16 * i, 8
        return kept + (of_norms * (q + k) if self.query_norms else 0)

    def rating_bytes_per_token(self, value_bytes: int, padded_length: int = 0) -> int:
        """What is alive at most per token in a forward pass without gradients: of one layer, whichever part needs more.

        `padded_length`: of the rows, if some are padded (0: none is). Then there is a mask, a byte for each pair of
        tokens, of which attention's kernel has a copy in the values' type.
        """
        feed_forward = 4 * self.hidden + 3 * self.intermediate_used
        attention = 2 * self.hidden + 4 * self.queries + 2 * self.key_values + padded_length
        return max(feed_forward, attention) * value_bytes + padded_length

    @property
    def intermediate_used(self) -> int:
        """Width of the widest layer's feed-forward part, as one token meets it."""
        if self.experts is None:
            return self.intermediate
        return max(self.intermediate, (self.experts.num_used + self.experts.num_shared) * self.experts.intermediate)

    def _parameters(self, num_routed: float) -> int:
        h, latent, experts = self.hidden, self.latent, self.experts
        attention = sum(inputs * outputs for inputs, outputs in self.attention_linears) + 2 * h  # and two norms
        if self.attention_bias:
            attention += self.queries + 2 * self.key_values
        if self.query_norms:
            attention += 2 * self.head_size
        if latent is not None:
            attention += latent.query_rank + latent.key_value_rank  # norms of the low-rank vectors
        dense = 3 * h * self.intermediate
        num_dense = experts.num_dense_layers if experts else self.layers
        feed_forward = num_dense * dense
        if experts is not None:
            router = experts.num_routed * (h + 1)
            each = 3 * h * experts.intermediate
            feed_forward += (self.layers - num_dense) * (router + (num_routed + experts.num_shared) * each)
        embeddings = self.vocabulary * h * (1 if self.tied or self.rewards else 2)
        return round(self.layers * attention + feed_forward + h + embeddings + (h if self.rewards else 0))


def architecture_of_config(config: Mapping[str, Any]) -> Architecture:
    """The architecture that a config.json describes. Raises ValueError, without a file, if it is of no known kind."""
    model_type = config.get("model_type", "")
    if model_type not in MODEL_TYPES:
        known = ", ".join(MODEL_TYPES)
        raise ValueError(
            f"model_type {model_type!r} cannot be planned (known: {known}){closest(model_type, MODEL_TYPES)}"
        )
    try:
        return _architecture(config, model_type)
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is missing in the config of the model; add it") from None


def _architecture(config: Mapping[str, Any], model_type: str) -> Architecture:
    latent = experts = None
    if model_type == "deepseek_v3":
        latent = LatentAttention(
            query_rank=config["q_lora_rank"],
            key_value_rank=config["kv_lora_rank"],
            rope_size=config["qk_rope_head_dim"],
            plain_size=config["qk_nope_head_dim"],
            value_size=config["v_head_dim"],
        )
        experts = Experts(
            num_routed=config["n_routed_experts"],
            num_used=config["num_experts_per_tok"],
            num_shared=config["n_shared_experts"],
            intermediate=config["moe_intermediate_size"],
            num_dense_layers=config["first_k_dense_replace"],
        )
    heads = config["num_attention_heads"]
    return Architecture(
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        key_value_heads=config.get("num_key_value_heads") or heads,
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
        head_size=config.get("head_dim") or (128 if model_type == "qwen3" else 0),  # transformers' default
        attention_bias=model_type == "qwen2" or bool(config.get("attention_bias", False)),
        query_norms=model_type == "qwen3",
        max_positions=config.get("max_position_embeddings"),
        latent=latent,
        experts=experts,
    )

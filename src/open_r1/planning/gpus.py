"""What the planner knows of a GPU. Numbers are those of the vendor's data sheet, dense (without sparsity)."""

from dataclasses import dataclass

from open_r1.recipe import Recipe, RecipeError
from open_r1.wording import closest

GUESSED_GPU = "h100_80gb"
# A card has a little less than its name says: 22.5 GiB of an L4's or A10G's 24, 79 of an H100's 80.
USABLE_SHARE = 0.93


@dataclass(frozen=True)
class Gpu:
    """One GPU. `cpu` stands for one thread of a CPU, whose numbers were measured."""

    name: str
    gib: float | None
    """Memory as the name says it; None: not limited by the planner."""
    tflops: float
    """Dense bf16 with fp32 sums, 10^12 FLOP/s; fp32 on a CPU."""
    gb_per_second: float
    """Bandwidth of its memory."""
    source: str
    usd_per_hour: float | None = 2.0
    price_source: str = "R1's price of an H800 hour (arXiv 2501.12948v2, table 7); set hardware.usd_per_hour"


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a10g_24gb", 24, 70, 600, "NVIDIA A10G data sheet"),
        Gpu("l4_24gb", 24, 121, 300, "NVIDIA L4 data sheet (242 with sparsity)"),
        Gpu("rtx3090_24gb", 24, 71, 936, "NVIDIA GA102 whitepaper, table of the RTX 3090"),
        Gpu("rtx4090_24gb", 24, 165, 1008, "NVIDIA Ada whitepaper, table of the RTX 4090"),
        Gpu("a100_40gb", 40, 312, 1555, "NVIDIA A100 data sheet, SXM"),
        Gpu(
            "a100_80gb",
            80,
            312,
            2039,
            "NVIDIA A100 data sheet, SXM",
            usd_per_hour=1.18,
            price_source="DeepScaleR's $4,500 for 3,800 A100 hours; set hardware.usd_per_hour",
        ),
        Gpu("h100_80gb", 80, 989, 3350, "NVIDIA H100 data sheet, SXM (1,979 with sparsity)"),
        Gpu("h200_141gb", 141, 989, 4800, "NVIDIA H200 data sheet, SXM (1,979 with sparsity)"),
        Gpu("h800_80gb", 80, 989, 3350, "as the H100; its links are slower, which the planner does not count"),
        Gpu(
            "cpu",
            None,
            0.050,
            10,
            "scripts/check_plan.py --cpu, one core of an AMD EPYC",
            usd_per_hour=None,
            price_source="hardware.usd_per_hour says none",
        ),
    )
}


def gpu_of(recipe: Recipe) -> Gpu:
    """The GPU of a recipe, or the one that is guessed where it names none. Raises RecipeError if it is unknown."""
    hardware = recipe.hardware
    if not hardware.gpus_per_node and hardware.vllm is None and hardware.judge is None:
        return GPUS["cpu"]
    name = hardware.gpu or GUESSED_GPU
    if name not in GPUS or name == "cpu":
        known = ", ".join(known for known in GPUS if known != "cpu")
        raise RecipeError(
            f"{recipe.source}: hardware.gpu: unknown GPU {name!r} (known: {known}){closest(name, GPUS)}; add it to "
            f"open_r1/planning/gpus.py with its data sheet"
        )
    return GPUS[name]

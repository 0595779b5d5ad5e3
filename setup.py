from pathlib import Path

from setuptools import find_packages, setup

# What the three steps cannot do without. Exact versions of everything that pip brings stand in requirements.lock,
# which the Makefile passes as constraints; only what must not move is pinned here as well.
INSTALL_REQUIRES = [
    "accelerate>=1.15,<2",
    "datasets>=5.2,<6",
    "jinja2>=3.1",
    "latex2sympy2_extended==1.0.6",  # lighteval's pin; another version gives other rewards
    "liger-kernel>=0.8.5",
    "math-verify==0.5.2",  # 0.9 cannot share an environment with lighteval 0.13
    "matplotlib>=3.11",
    "pandas>=3",
    "peft>=0.21.2",
    "pint>=0.25",
    "psutil>=7",
    "py3langid>=0.4,<0.5",
    "pyarrow>=26",
    "pydantic>=2.14,<3",
    "pyyaml>=6",
    "reasoning-gym==0.1.25",
    "regex>=2026.9",
    "rich>=15",
    "safetensors>=0.8",
    "torch==2.13.0",  # what vLLM 0.31 pins; an open range brings another build
    "transformers==5.17.0",
    "trl==1.16.0",
]
EXTRAS = {
    "eval": ["lighteval==0.13.0", "xxhash<4"],  # lighteval 0.13 fails on xxhash 4 after all generation is done
    # FastAPI, uvicorn and httpx: the sandbox router and its clients. vLLM 0.31 wants FastAPI below 0.137.
    "code": ["e2b-code-interpreter>=2.11.5,<3", "fastapi>=0.136", "httpx>=0.28,<1", "python-dotenv", "uvicorn>=0.54"],
    "endpoint": ["openai>=3.54,<4"],  # generate.endpoint, evaluate.endpoint; lighteval brings it as well
    "deepspeed": ["deepspeed>=0.19.8,<0.20"],  # hardware.accelerate: zero2, zero3
    # The newest that TRL 1.16 supports. Not under requirements.lock: it takes numpy 2.3 and FastAPI 0.136.
    "vllm": ["vllm==0.31.0"],
    "zh": ["jieba==0.42.1"],  # repetition_penalty with language: zh
    "dev": ["hypothesis>=6.170", "pytest>=9", "pytest-xdist>=3.8", "ruff>=0.17"],
}

setup(
    name="open-r1",
    version="0.1.0",
    description="Recipes that reproduce how DeepSeek-R1 was made",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={
        "open_r1.publishing": ["*.jinja"],
        "open_r1.report": ["*.jinja"],
        "open_r1.sandbox.local": ["inside/*.py"],
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS,
)

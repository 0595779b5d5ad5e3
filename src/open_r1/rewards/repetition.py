"""A penalty for saying the same again and again: the share of n-grams of words that are repeats."""

import functools
import tempfile
from collections.abc import Sequence

import regex

from open_r1.recipe import RecipeError
from open_r1.rewards.completion import Completion, completion_text

LANGUAGES = ("any", "zh")
# Unicode's word boundaries (UAX 29): `don't` and `3.14` are one word, Hindi keeps its vowel signs, Chinese falls into
# characters, and symbols are no words.
WORD = regex.compile(r"(?w)\b\w.*?\b", regex.DOTALL)


def repetition_penalty_reward(
    completions: Sequence[Completion],
    *,
    ngram_size: int = 3,
    max_penalty: float = -1.0,
    language: str = "any",
    **columns,
) -> list[float]:
    """(1 - different n-grams / all n-grams) * max_penalty: 0.0 if none is repeated, towards max_penalty if all are.

    N-grams of `ngram_size` words without regard to case; 0.0 for a completion of fewer words. `language: any` takes
    words by Unicode's rules, where a Chinese character is a word; `zh` takes Chinese words by jieba's dictionary. A
    loop of symbols alone has no words and is not seen here; `soft_overlong_punishment` is for that.

    "Demystifying Long Chain-of-Thought Reasoning in LLMs" (arXiv 2502.03373) penalises each repeated token; the share
    over the whole completion is open-r1's form of it. Raises RecipeError for a positive max_penalty, an ngram_size
    below 1, an unknown language, or `zh` without jieba.
    """
    if max_penalty > 0:
        raise RecipeError(f"repetition_penalty: max_penalty is {max_penalty}; a penalty is 0 or negative, e.g. -1.0")
    if ngram_size < 1:
        raise RecipeError(f"repetition_penalty: ngram_size is {ngram_size}; give 1 or more words")
    if language not in LANGUAGES:
        raise RecipeError(f"repetition_penalty: language is {language!r}; give one of {', '.join(LANGUAGES)}")
    words_of = _chinese_words if language == "zh" else WORD.findall
    if language == "zh":
        _jieba()  # if it is missing, that is told before anything is scored
    return [
        _share_of_repeats(words_of(completion_text(completion).casefold()), ngram_size) * max_penalty
        for completion in completions
    ]


def _share_of_repeats(words: list[str], ngram_size: int) -> float:
    num_ngrams = len(words) - ngram_size + 1
    if num_ngrams < 1:
        return 0.0
    return 1 - len(set(zip(*(words[start:] for start in range(ngram_size)), strict=False))) / num_ngrams


def _chinese_words(text: str) -> list[str]:
    # HMM guesses words that the dictionary lacks, in time that grows with the square of a run of such characters.
    return [word for word in _jieba().cut(text, HMM=False) if any(map(str.isalnum, word))]


@functools.cache
def _jieba():
    """jieba's tokenizer, its dictionary read once."""
    try:
        import jieba
    except ImportError:
        raise RecipeError(
            "repetition_penalty: language 'zh' needs jieba, which is missing: pip install jieba"
        ) from None
    jieba.setLogLevel("WARNING")
    tokenizer = jieba.Tokenizer()
    with tempfile.TemporaryDirectory() as folder:  # else it trusts any jieba.cache that lies in the shared /tmp
        tokenizer.tmp_dir = folder
        tokenizer.initialize()
    return tokenizer

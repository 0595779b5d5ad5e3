"""What a judge says of one answer."""

from dataclasses import dataclass

UNPARSED_GOLD = "the gold cannot be parsed"


@dataclass(frozen=True)
class Verdict:
    """1.0 if the answer means what the gold means, 0.0 if not, None if nobody can say; and why, in a few words."""

    score: float | None
    reason: str

    @property
    def is_about_gold(self) -> bool:
        """True if there is no verdict because of the gold, False if because of the judge."""
        return self.score is None and self.reason.startswith(UNPARSED_GOLD)

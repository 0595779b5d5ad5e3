"""`make push RUN=runs/… TO=user/name`: what a run made as a data set on the Hub, with a card that says how.

    python -m open_r1.publishing RUN_DIR USER/NAME [--private] [--license ID] [--dry-run]

paths        paths of this machine in records and tables -> names
publication  a finished run of generate, distill or evaluate -> the files that are sent
card         what the record says -> README.md
sending      all of it to the Hub, in one commit
"""

from open_r1.publishing.publication import Publication, publication_of
from open_r1.publishing.sending import send

__all__ = ["Publication", "publication_of", "send"]

"""Checkpoints that are whole or not there."""


class WholeCheckpoints:
    def extra_state(self):
        return {}

    def load_extra_state(self, state):
        pass

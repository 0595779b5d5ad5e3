"""A reward function of a user's own, in a module of its own."""


def number_of_characters(completions, **columns):
    """Length of each completion: nearly always different within a group, so that there is something to learn."""
    return [float(len(completion[-1]["content"])) for completion in completions]

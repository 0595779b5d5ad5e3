"""Which rows and completions are worth training on."""

"""What whoever adds a recipe is helped with: nothing here takes part in a run.

new_recipe  a folder to begin with
evidence    what a finished run gave, kept beside its recipe
pages       plan and results in the recipes' READMEs, and the list of all recipes
"""

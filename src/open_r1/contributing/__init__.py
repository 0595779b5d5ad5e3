"""What whoever adds a recipe is helped with: nothing here takes part in a run.

new_recipe  a folder to begin with
evidence    what a finished run gave, kept beside its recipe
importing   a flat recipe of open-r1 or TRL, made one of ours (scripts/import_recipe.py)
pin         commits of models and data sets, asked of the Hub and written into a recipe
pages       plan and results in the recipes' READMEs, and the list of all recipes
"""

"""Training recipes: YAML files that say how a network is trained, in the words of the papers they are from.

``files.py`` reads them with what they inherit (``like``), ``recipe.py`` has their fields. Nothing here needs torch.
Imports ``common`` alone.
"""

from nas_agg.training.recipes.augmentation import Augmentation
from nas_agg.training.recipes.files import RecipeSource, list_recipes, open_recipe
from nas_agg.training.recipes.recipe import Recipe

__all__ = ["Augmentation", "Recipe", "RecipeSource", "list_recipes", "open_recipe"]

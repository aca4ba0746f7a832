"""Language models from the hub, from a folder, or shipped with the library.

In: a name or a model, and prompts as people write them. Out: an :class:`~nnsight_graph.model.NNsight` whose traces take
prompts.

The trick: until the first run the weights are on the meta device - the tree is there at once, and nothing was loaded.
"""

from .language_model import LanguageModel
from .loading import shipped_models

TransformersModel = LanguageModel

__all__ = ["LanguageModel", "TransformersModel", "shipped_models"]

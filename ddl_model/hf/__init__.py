"""Language models in Hugging Face transformers: after `import ddl_model.hf` its Auto classes and `generate()` work.

`AutoModelForCausalLM.from_pretrained` loads our checkpoint folders and those of the paper's authors. A `config.json`
without `model_type` (our older folders, the authors' additive baseline) says too little for an Auto class:
`DeepDeltaForCausalLM.from_pretrained` loads these as well. What `save_pretrained` writes is a checkpoint of ours.
"""

from transformers import AutoConfig, AutoModelForCausalLM

from ddl_model.hf.cache import DeltaCache
from ddl_model.hf.config import AuthorsConfig, DeepDeltaConfig
from ddl_model.hf.model import DeepDeltaForCausalLM

__all__ = ["DeepDeltaConfig", "DeepDeltaForCausalLM", "DeltaCache"]

AutoConfig.register(DeepDeltaConfig.model_type, DeepDeltaConfig)
AutoConfig.register(AuthorsConfig.model_type, AuthorsConfig)
AutoModelForCausalLM.register(DeepDeltaConfig, DeepDeltaForCausalLM)

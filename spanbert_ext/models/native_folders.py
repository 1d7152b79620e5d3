# SPDX-License-Identifier: Apache-2.0
"""From and to folders of transformers: what loads a native model loads ours, and the other way round."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import HfApi
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import CONFIG_NAME, find_adapter_config_file, is_peft_available, logging

from spanbert_ext._version import __version__
from spanbert_ext.models.model_card import CARD, card_text, check_facts, write_card
from spanbert_ext.models.native_classes import registered_configs
from spanbert_ext.models.options import wants_nsp
from spanbert_ext.models.span_boundary_head import SpanBoundaryHead

_logger = logging.get_logger("transformers.spanbert_ext")  # as loud as transformers' own reports
_HUB_ARGUMENTS = {
    *("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token"),
    "trust_remote_code",
}


class NativeFolders:
    """The part of a model class that loads, initialises, saves and resizes, in front of the native class."""

    native_class: type[PreTrainedModel] = PreTrainedModel  # of the class that is for any configuration
    loaded_from: Any = (
        None  # as `name_or_path`, which a model with random weights takes from its configuration
    )

    @classmethod
    def _is_for_one_type(cls) -> bool:
        """Whether the class is made of a native one, and thus for one type of configuration."""
        return cls.native_class is not PreTrainedModel

    @property
    def _saves_adapters_alone(self) -> bool:
        """Whether transformers saves what `add_adapter` has added, and neither the model nor its configuration."""
        return getattr(self, "_hf_peft_config_loaded", False)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, config: Any = None, **kwargs: Any
    ) -> Any:
        """Loads a native checkpoint, whose SBO is then initialised, or one of ours, or PEFT's adapters with their base.

        Arguments as in transformers, plus the options of the class.
        """
        code_revision = kwargs.pop(
            "code_revision", None
        )  # as AutoModelForMaskedLM, which hands nothing of it on
        if cls._is_for_one_type():
            found = super().from_pretrained(pretrained_model_name_or_path, *args, config=config, **kwargs)
            model = found[0] if isinstance(found, tuple) else found  # with output_loading_info
            model.loaded_from = pretrained_model_name_or_path
            if model.sbo.untrained:
                _logger.warning(
                    f"spanbert_ext: {pretrained_model_name_or_path} has no trained span-boundary head. Its weights, "
                    "sbo.*, are random until they are trained; all others are those of the checkpoint, but what is "
                    "listed as MISSING beside them."
                )
            return found
        if isinstance(config, PreTrainedConfig):
            config_class, saved = type(config), getattr(config, "span_pretraining", None)
        else:
            hub = {name: kwargs[name] for name in _HUB_ARGUMENTS & kwargs.keys()}
            if code_revision is not None:
                hub["code_revision"] = code_revision
            source = config or _base_of_adapters(
                pretrained_model_name_or_path, hub, kwargs.get("adapter_kwargs") or {}
            )
            config_class, saved = _saved_config(source, hub)
        concrete = cls.made_for(config_class, wants_nsp(saved, kwargs.get("nsp")))
        return concrete.from_pretrained(pretrained_model_name_or_path, *args, config=config, **kwargs)

    @classmethod
    def from_config(cls, config: Any, **kwargs: Any) -> Any:
        """A model with random weights. Keywords: `dtype`, `attn_implementation`, the options of the class.

        `trust_remote_code` and `code_revision` are ignored: no code is loaded.
        """
        kwargs = _without_code(kwargs)
        nsp = wants_nsp(getattr(config, "span_pretraining", None), kwargs.get("nsp"))
        return cls.made_for(type(config), nsp)._from_config(copy.deepcopy(config), **kwargs)

    def save_pretrained(
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: dict[str, Any] | None = None,
        push_to_hub: bool = False,
        card: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Saves as the native class does, under its name: what loads the native model loads this one. Beside it goes a
        model card, README.md, but where one is that you wrote or changed. Of a model with adapters of `add_adapter` it
        saves, as the native class, these alone: no configuration, and no card.

        Args:
            card: what the card says by your word, some of: `base_model`, a name on the hub; `language` and `license`,
                as the hub writes them; `corpus`, what it was trained on; `training` and `metrics`, Markdown, the latter
                with how they were measured. Each is a text, `language` and `corpus` may be a list of them.

        Raises:
            TypeError: a card of another form.
        """
        facts = check_facts(card)
        super().save_pretrained(
            save_directory, is_main_process=is_main_process, state_dict=state_dict, **kwargs
        )
        self.config.architectures = [self.native_class.__name__]
        base = os.path.basename(os.path.abspath(save_directory))
        if is_main_process and not self._saves_adapters_alone:
            config = copy.deepcopy(self.config)
            del config.keys_to_ignore_at_inference  # of our outputs, not of the native ones
            config.save_pretrained(save_directory)
            write_card(save_directory, card_text(self, kwargs.get("repo_id") or base, facts))
        if push_to_hub:  # only now: the folder is complete
            wanted = ("commit_message", "private", "token", "create_pr", "revision")
            given = {key: kwargs[key] for key in wanted if key in kwargs}
            path = None if self._saves_adapters_alone else os.path.join(save_directory, CARD)
            self.push_to_hub(kwargs.get("repo_id") or base, card=path, **given)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
        tags: str | Sequence[str] | None = None,
        card: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    ) -> Any:
        """Uploads the model with its card to the Hugging Face hub; arguments as in transformers.

        A card that is there, and that you wrote or changed, stays as it is.

        Args:
            card: what the card says by your word, as in `save_pretrained`; or the path of a card, which then takes the
                place of that on the hub, whoever wrote it.
        """
        facts = {} if isinstance(card, (str, os.PathLike)) else check_facts(card)
        api = HfApi(token=token, library_name="spanbert_ext", library_version=__version__)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, max_shard_size=max_shard_size, card=facts)
            path = os.path.join(folder, CARD)
            if isinstance(card, (str, os.PathLike)):
                shutil.copyfile(card, path)
            elif not self._saves_adapters_alone:
                os.unlink(path)
                _fetch_card(api, repo_id, revision, path)
                tags = [tags] if isinstance(tags, str) else tags or []
                write_card(folder, card_text(self, repo_id, facts, tags))
            if revision is not None and not revision.startswith("refs/pr"):
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message or f"Upload {type(self).__name__}",
                commit_description=commit_description,
                revision=revision,
                create_pr=create_pr,
            )

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any
    ) -> nn.Embedding:
        """As in transformers; the SBO's vocabulary bias follows, with zeros for new tokens."""
        embeddings = super().resize_token_embeddings(new_num_tokens, *args, **kwargs)
        old = self.sbo.bias
        size = embeddings.weight.shape[0]
        if old.shape[0] != size:
            bias = old.new_zeros(size)  # [V]
            kept = min(size, old.shape[0])
            bias[:kept] = old.detach()[:kept]
            self.sbo.bias = nn.Parameter(bias, requires_grad=old.requires_grad)
        return embeddings

    def _init_weights(self, module: nn.Module) -> None:
        # from_pretrained leaves what no checkpoint has as raw memory. The head initialises its modules itself: native
        # classes may know no others than their own.
        sbo = self._modules.get("sbo")
        if sbo is not None and any(module is part for part in sbo.children()):
            return
        super()._init_weights(module)
        if isinstance(module, SpanBoundaryHead):
            module.reset_parameters(init, _initial_std(self.config))
        elif module is self and "masking_step" in self._buffers:
            init.zeros_(self.masking_step)


def _fetch_card(api: HfApi, repo_id: str, revision: str | None, path: str) -> None:
    """Puts the card that a repository has at `path`; nothing where it has none."""
    if api.file_exists(repo_id, CARD, revision=revision):
        shutil.copyfile(api.hf_hub_download(repo_id, CARD, revision=revision), path)


def _initial_std(config: Any) -> float:
    """Of the family's own weights: `initializer_range`, for which XLM says `init_std`."""
    return getattr(config, "initializer_range", None) or getattr(config, "init_std", None) or 0.02


def _without_code(options: dict[str, Any]) -> dict[str, Any]:
    """Without those of code, which is not loaded."""
    return {name: x for name, x in options.items() if name not in ("trust_remote_code", "code_revision")}


def _base_of_adapters(source: Any, hub: dict[str, Any], adapter_kwargs: dict[str, Any]) -> Any:
    """Where the configuration is: in `source`, or, where that has adapters alone, in their base, as AutoModel finds it.

    Raises:
        ValueError: adapters of a base without a name.
    """
    if not is_peft_available() or os.path.isfile(os.path.join(source, CONFIG_NAME)):
        return source
    path = find_adapter_config_file(source, **(_without_code(hub) | adapter_kwargs))
    if path is None:
        return source
    with open(path, encoding="utf-8") as file:
        base = json.load(file).get("base_model_name_or_path")
    if base is None:
        raise ValueError(
            f"{source} has adapters of a model without a name: load that model, then call its load_adapter"
        )
    return base


def _saved_config(source: Any, hub: dict[str, Any]) -> tuple[type, dict[str, Any] | None]:
    """Of the configuration that a folder, or the hub, has for a model: its class, and the options in it."""
    registered = registered_configs()
    if registered:  # AutoConfig need not know these
        saved, _ = PreTrainedConfig.get_config_dict(source, **_without_code(hub))
        if saved.get("model_type") in registered:
            return registered[saved["model_type"]], saved.get("span_pretraining")
    config = AutoConfig.from_pretrained(source, **hub)
    return type(config), getattr(config, "span_pretraining", None)

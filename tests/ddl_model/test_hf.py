"""Language models under transformers: the same logits, and every way to generate gives what a plain loop gives.

Models are in float64 where two ways of computing must choose the same tokens: rounding then decides nothing.
"""

import copy
import functools
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, GenerationConfig, GPT2Config
from transformers.utils import logging

from ddl_model import (
    AttentionConfig,
    ConfigError,
    ImageClassifier,
    LanguageModel,
    LanguageModelConfig,
    ResidualConfig,
    StateConfig,
    load_checkpoint,
)
from ddl_model.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from ddl_model.hf import DeepDeltaConfig, DeepDeltaForCausalLM, DeltaCache

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = ["additive", "cc", "cc-ec", "tc", "tc-ec", "vdim1"]
NEW = 5
CONFIG = LanguageModelConfig(
    vocab_size=5,
    layers=2,
    width=12,
    feedforward_width=20,
    attention=AttentionConfig(heads=2, head_width=6, key_shift=True, value_shift=True),
    state=StateConfig(value_channels=3, compress="token", expand="convolution"),
    embedding_std=0.5,
)
CONSTANT = replace(CONFIG, residual=ResidualConfig(target_map="constant", target_value=1.5))
POOLED = ResidualConfig(
    direction="attention_pooled", direction_norm="learned_scale", gate="grouped", gate_groups=3, target_input="output"
)


@pytest.fixture(autouse=True)
def _no_progress_bars() -> Iterator[None]:
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


def auto(folder: Path, **options: object) -> DeepDeltaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, **options)


def make(config: LanguageModelConfig = CONFIG, seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    return LanguageModel(config).eval()


def save(model: LanguageModel | ImageClassifier, run: Path, step: int = 3) -> Path:
    return save_checkpoint(run, step, Checkpoint(model.state_dict(), model.config, {"step": step}))


def random_ids(rows: int, columns: int, vocab_size: int) -> Tensor:
    return torch.randint(0, vocab_size, (rows, columns), generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def plain(case: str) -> LanguageModel:
    return load_checkpoint(GOLDEN / case).double()


@pytest.fixture(scope="module")
def model(case: str) -> DeepDeltaForCausalLM:
    return DeepDeltaForCausalLM.from_pretrained(GOLDEN / case).double()


@pytest.fixture(scope="module")
def tiny() -> DeepDeltaForCausalLM:
    model = DeepDeltaForCausalLM(DeepDeltaConfig(config=CONFIG.to_dict()))
    model.model.load_state_dict(make().state_dict())
    return model.double().eval()


def loop(model: LanguageModel, ids: Tensor, new: int, choose: Callable[[Tensor], Tensor]) -> Tensor:
    """Generate the slow way: without a cache, without transformers."""
    with torch.no_grad():
        for _ in range(new):
            ids = torch.cat([ids, choose(model(ids)[:, -1])], dim=1)
    return ids


def greedy(logits: Tensor) -> Tensor:
    return logits.argmax(-1, keepdim=True)


def sampled(logits: Tensor) -> Tensor:
    return torch.multinomial(logits.float().softmax(-1), 1)


def left_padded(ids: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Return the rows' first tokens, moved to the right, and the mask."""
    padded, mask = torch.ones_like(ids), torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        padded[row, -length:], mask[row, -length:] = ids[row, :length], 1
    return padded, mask


class TestLoading:
    @torch.no_grad()
    def test_the_authors_folders_give_the_logits_of_the_language_model(self, case: str) -> None:
        # Their baseline's config.json has no model_type, so the Auto class cannot know it.
        model = DeepDeltaForCausalLM.from_pretrained(GOLDEN / case) if case == "additive" else auto(GOLDEN / case)
        ids = random_ids(2, 9, 257)
        assert not model.training
        assert model.config.name_or_path == str(GOLDEN / case)
        assert torch.equal(model(ids).logits, load_checkpoint(GOLDEN / case)(ids))

    @torch.no_grad()
    @pytest.mark.parametrize(
        "residual",
        [
            CONFIG.residual,
            CONSTANT.residual,
            POOLED,
            ResidualConfig(rule="write_only"),
            ResidualConfig(rule="additive"),
        ],
        ids=["", "constant", "pooled", "write only", "additive"],
    )
    def test_our_folders_give_the_logits_of_the_language_model(self, tmp_path: Path, residual: ResidualConfig) -> None:
        config = replace(CONFIG, residual=residual)
        plain, later, ids = make(config), make(config, seed=1), random_ids(2, 9, 5)
        folder = save(plain, tmp_path)
        save(later, tmp_path, step=4)
        for loaded in (auto(folder), auto(tmp_path, subfolder=folder.name)):
            assert torch.equal(loaded(ids).logits, plain(ids))
        assert torch.equal(DeepDeltaForCausalLM.from_pretrained(tmp_path)(ids).logits, later(ids))

    @torch.no_grad()
    def test_a_folder_from_before_config_json_had_a_model_type(self, tmp_path: Path) -> None:
        plain, ids = make(), random_ids(2, 9, 5)
        folder = save(plain, tmp_path)
        described = json.loads((folder / "config.json").read_text())
        del described["model_type"]
        (folder / "config.json").write_text(json.dumps(described))
        assert torch.equal(DeepDeltaForCausalLM.from_pretrained(folder)(ids).logits, plain(ids))
        with pytest.raises(ValueError, match="Should have a `model_type` key"):
            auto(folder)

    @torch.no_grad()
    def test_a_saved_folder_is_one_for_both_libraries(self, tmp_path: Path, case: str) -> None:
        model, ids = DeepDeltaForCausalLM.from_pretrained(GOLDEN / case), random_ids(2, 9, 257)
        model.generation_config.max_new_tokens = 3
        model.save_pretrained(tmp_path)
        again = auto(tmp_path)
        assert torch.equal(again(ids).logits, model(ids).logits)
        assert torch.equal(load_checkpoint(tmp_path)(ids), model(ids).logits)
        assert again.generation_config.max_new_tokens == 3
        assert (
            auto(tmp_path, generation_config=GenerationConfig(max_new_tokens=4)).generation_config.max_new_tokens == 4
        )
        assert again.config.to_dict() == model.config.to_dict() | {"_name_or_path": str(tmp_path)}

    @torch.no_grad()
    def test_a_loaded_model_does_not_hang_on_its_file(self, tmp_path: Path) -> None:
        ids = random_ids(1, 5, 5)
        folder = save(make(), tmp_path)
        model = auto(folder)
        before = model(ids).logits
        weights = folder / "model.safetensors"
        with weights.open("r+b") as file:
            file.seek(weights.stat().st_size // 2)
            file.write(bytes(weights.stat().st_size // 2))
        assert torch.equal(model(ids).logits, before)

    @torch.no_grad()
    def test_the_dtype_can_be_chosen_and_is_kept(self, tmp_path: Path) -> None:
        plain, ids = make(CONSTANT), random_ids(2, 9, 5)
        model = auto(save(plain, tmp_path), dtype=torch.bfloat16)
        expected = plain.bfloat16()(ids)
        assert expected.dtype == torch.bfloat16
        assert torch.equal(model(ids).logits, expected)
        model.save_pretrained(tmp_path / "half")
        assert torch.equal(auto(tmp_path / "half")(ids).logits, expected)

    def test_a_new_model_has_the_weights_that_the_language_model_draws(self) -> None:
        plain = make(CONSTANT)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(DeepDeltaConfig(config=CONSTANT.to_dict()))
        assert model.training
        assert all(torch.equal(model.model.state_dict()[name], tensor) for name, tensor in plain.state_dict().items())
        assert dict(model.model.named_buffers()).keys() == dict(plain.named_buffers()).keys()
        assert all(torch.equal(model.model.get_buffer(name), tensor) for name, tensor in plain.named_buffers())

    def test_the_config_tells_the_sizes_that_transformers_asks_for(self) -> None:
        config = AutoConfig.from_pretrained(GOLDEN / "tc")
        assert isinstance(config, DeepDeltaConfig)
        sizes = (config.vocab_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads)
        assert sizes == (257, 48, 3, 2)
        assert config == AutoConfig.from_pretrained(GOLDEN / "tc")
        assert config != AutoConfig.from_pretrained(GOLDEN / "cc", name_or_path=config.name_or_path)
        assert config == DeepDeltaConfig.from_pretrained(GOLDEN / "tc", name_or_path=config.name_or_path)
        assert DeepDeltaConfig().language_model_config() == LanguageModelConfig()

    def test_what_cannot_be_loaded_says_why(self, tmp_path: Path, tiny_model: ImageClassifier) -> None:
        images = save(tiny_model, tmp_path / "images")
        for load in (auto, DeepDeltaForCausalLM.from_pretrained):
            with pytest.raises(ConfigError, match=r"the model here is 'image_classifier': load it with ddl_model\."):
                load(images)
        with pytest.raises(ConfigError, match=r"schema must be 'ddl\.checkpoint/1', got 'ddl\.checkpoint/9'"):
            DeepDeltaConfig(schema="ddl.checkpoint/9")
        with pytest.raises(CheckpointError, match="authors/model is no folder here: download the repository first"):
            DeepDeltaForCausalLM.from_pretrained("authors/model")
        with pytest.raises(CheckpointError, match=r"is no checkpoint \(model\.safetensors is missing\)"):
            DeepDeltaForCausalLM.from_pretrained(tmp_path)

    @pytest.mark.parametrize("damage", ["lacks one", "has one more", "another shape"])
    def test_weights_that_do_not_fit_are_refused(self, tmp_path: Path, damage: str) -> None:
        folder = save(make(), tmp_path)
        weights = load_file(folder / "model.safetensors")
        match damage:
            case "lacks one":
                del weights["blocks.1.attn.norm.weight"]
            case "has one more":
                weights["blocks.2.attn.norm.weight"] = torch.ones(12)
            case "another shape":
                weights["final_norm.weight"] = torch.ones(13)
        save_file(weights, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match="the weights do not fit the config") as problem:
            auto(folder)
        named = {"another shape": "final_norm.weight"}.get(damage, "attn.norm.weight")
        assert named in str(problem.value)

    def test_weights_go_into_one_file_or_not_at_all(self, tmp_path: Path, tiny: DeepDeltaForCausalLM) -> None:
        with pytest.raises(CheckpointError, match=r"has no model\.safetensors: leave out max_shard_size and variant"):
            tiny.save_pretrained(tmp_path, max_shard_size="5KB")


class TestGenerating:
    def test_greedy(self, model: DeepDeltaForCausalLM, plain: LanguageModel) -> None:
        ids = random_ids(2, 3, 257)  # shorter than the convolutions reach
        expected = loop(plain, ids, NEW, greedy)
        for use_cache in (True, False):
            actual = model.generate(ids, max_new_tokens=NEW, do_sample=False, use_cache=use_cache)
            assert torch.equal(actual, expected)

    def test_sampling_with_the_same_seed(self, model: DeepDeltaForCausalLM, plain: LanguageModel) -> None:
        ids = random_ids(3, 4, 257)
        torch.manual_seed(11)
        expected = loop(plain, ids, NEW, sampled)
        for use_cache in (True, False):
            torch.manual_seed(11)
            actual = model.generate(ids, max_new_tokens=NEW, do_sample=True, top_k=0, use_cache=use_cache)
            assert torch.equal(actual, expected)

    def test_rows_of_a_left_padded_batch_are_like_rows_alone(self, model: DeepDeltaForCausalLM) -> None:
        ids, lengths = random_ids(2, 6, 257), [2, 6]
        padded, mask = left_padded(ids, lengths)
        for options in ({}, {"use_cache": False, "num_beams": 2}):
            together = model.generate(padded, attention_mask=mask, max_new_tokens=NEW, **options)
            for row, length in enumerate(lengths):
                alone = model.generate(ids[row : row + 1, :length], max_new_tokens=NEW, **options)
                assert torch.equal(together[row, 6:], alone[0, length:])

    @torch.no_grad()
    def test_only_the_logits_that_are_asked_for(self, model: DeepDeltaForCausalLM) -> None:
        padded, mask = left_padded(random_ids(2, 6, 257), [2, 6])
        every = model(padded, mask).logits
        for keep, columns in ((0, [0, 1, 2, 3, 4, 5]), (1, [5]), (4, [2, 3, 4, 5]), (9, [0, 1, 2, 3, 4, 5])):
            for cache in (None, DeltaCache()):
                kept = model(padded, mask, past_key_values=cache, logits_to_keep=keep).logits
                torch.testing.assert_close(kept, every[:, columns])
        chosen = torch.tensor([4, 2, -1])
        torch.testing.assert_close(model(padded, mask, logits_to_keep=chosen).logits, every[:, [4, 2, 5]])
        torch.testing.assert_close(model(padded, logits_to_keep=chosen).logits, model(padded).logits[:, [4, 2, 5]])
        with pytest.raises(ValueError, match="labels need the logits of every column: leave out logits_to_keep"):
            model(padded, mask, labels=padded, logits_to_keep=1)

    def test_the_head_sees_the_kept_columns_alone(
        self, tiny: DeepDeltaForCausalLM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shapes: list[tuple[int, ...]] = []
        logits = tiny.model.logits

        def watched(hidden: Tensor) -> Tensor:
            shapes.append(tuple(hidden.shape))
            return logits(hidden)

        monkeypatch.setattr(tiny.model, "logits", watched)
        padded, mask = left_padded(random_ids(2, 6, 5), [3, 6])
        for options in ({}, {"attention_mask": mask}, {"past_key_values": DeltaCache()}):
            tiny(padded, logits_to_keep=2, **options)
        assert shapes == [(2, 2, 12)] * 3

    def test_generating_asks_for_the_last_logits_alone(
        self, tiny: DeepDeltaForCausalLM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shapes: list[tuple[int, ...]] = []
        forward = tiny.forward

        def watched(*args: object, **options: object) -> object:
            output = forward(*args, **options)
            shapes.append(tuple(output.logits.shape))
            return output

        # The signature stays: transformers looks there whether a model can choose logits.
        monkeypatch.setattr(tiny, "forward", functools.wraps(forward)(watched))
        tiny.generate(random_ids(2, 6, 5), max_new_tokens=3)
        assert shapes == [(2, 1, 5)] * 3

    def test_beam_search_with_and_without_a_cache(self, model: DeepDeltaForCausalLM) -> None:
        # The penalty makes these sure models less sure, so that beams change places.
        options = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": NEW, "repetition_penalty": 5.0}
        ids = random_ids(2, 3, 257)
        cached = model.generate(ids, **options)
        assert torch.equal(cached, model.generate(ids, use_cache=False, **options))

    def test_beam_search_finds_the_best_of_all_continuations(self, tiny: DeepDeltaForCausalLM) -> None:
        ids = random_ids(2, 4, 5)
        tails = torch.tensor(list(itertools.product(range(5), repeat=3)))
        found = tiny.generate(ids, max_new_tokens=3, num_beams=25, do_sample=False)
        for row in range(2):
            sequences = torch.cat([ids[row].expand(125, 4), tails], dim=1)
            with torch.no_grad():
                scores = tiny.model(sequences)[:, 3:-1].log_softmax(-1)
            total = scores.gather(2, tails.unsqueeze(-1)).sum((1, 2))
            assert torch.equal(found[row], sequences[total.argmax()])

    def test_a_row_that_has_ended_leaves_the_others_alone(self, tiny: DeepDeltaForCausalLM) -> None:
        ids = random_ids(4, 5, 5)
        whole = loop(tiny.model, ids, NEW, greedy)
        end = int(whole[0, 6])
        mask = torch.ones_like(ids)  # else padding would be guessed from the ids
        actual = tiny.generate(ids, attention_mask=mask, max_new_tokens=NEW, eos_token_id=end, pad_token_id=0)
        for row in range(4):
            new = whole[row, 5:].tolist()
            kept = new[: new.index(end) + 1] if end in new else new
            assert actual[row, 5:].tolist() == (kept + [0] * NEW)[: actual.shape[1] - 5]

    def test_a_cache_is_continued_from_copies(self, tiny: DeepDeltaForCausalLM) -> None:
        ids, lengths = random_ids(2, 6, 5), [3, 5]  # one column is padding in both rows
        padded, mask = left_padded(ids, lengths)
        prompt = tiny(padded, mask, use_cache=True).past_key_values
        assert (len(prompt), prompt.batch_size, prompt.get_seq_length()) == (2, 2, 6)
        for more in (random_ids(2, 2, 5), torch.tensor([[1, 4, 0], [3, 3, 2]])):
            ids_now = torch.cat([padded, more], dim=1)
            mask_now = torch.cat([mask, torch.ones_like(more)], dim=1)
            expected = tiny.generate(ids_now, attention_mask=mask_now, max_new_tokens=NEW)
            actual = tiny.generate(
                ids_now, attention_mask=mask_now, max_new_tokens=NEW, past_key_values=copy.deepcopy(prompt)
            )
            assert torch.equal(actual, expected)
        assert prompt.get_seq_length() == 6

    def test_a_conversation_goes_on_with_the_cache_it_returned(self, tiny: DeepDeltaForCausalLM) -> None:
        ids = random_ids(2, 4, 5)
        first = tiny.generate(ids, max_new_tokens=NEW, past_key_values=DeltaCache(), return_dict_in_generate=True)
        cache = first.past_key_values
        assert cache.get_seq_length() == 4 + NEW - 1  # nobody has looked at the last token yet
        longer = torch.cat([first.sequences, random_ids(2, 3, 5)], dim=1)
        with_cache = tiny.generate(longer, max_new_tokens=NEW, past_key_values=cache)
        assert torch.equal(with_cache, loop(tiny.model, longer, NEW, greedy))
        assert cache.get_seq_length() == longer.shape[1] + NEW - 1

    def test_a_long_prompt_can_be_read_in_chunks(self, tiny: DeepDeltaForCausalLM) -> None:
        ids, lengths = random_ids(2, 8, 5), [3, 8]
        padded, mask = left_padded(ids, lengths)
        options = {"attention_mask": mask, "max_new_tokens": NEW}
        chunked = tiny.generate(padded, prefill_chunk_size=3, past_key_values=DeltaCache(), **options)
        assert torch.equal(chunked, tiny.generate(padded, **options))

    def test_what_it_cannot_do_it_says(self, tiny: DeepDeltaForCausalLM) -> None:
        ids = random_ids(1, 4, 5)
        with pytest.raises(ValueError, match="assisted generation is not supported with stateful models"):
            tiny.generate(ids, max_new_tokens=2, prompt_lookup_num_tokens=2)
        for name in ("output_hidden_states", "output_attentions"):
            with pytest.raises(ValueError, match=f"{name} is not supported"):
                tiny.generate(ids, max_new_tokens=2, return_dict_in_generate=True, **{name: True})
        with pytest.raises(ValueError, match="position_ids is not supported"):
            tiny(ids, position_ids=torch.arange(4))
        with pytest.raises(ValueError, match=r"must be a ddl_model\.hf\.DeltaCache, got a DynamicCache"):
            tiny.generate(ids, max_new_tokens=2, past_key_values=DynamicCache(config=GPT2Config()))


class TestCache:
    @torch.no_grad()
    def test_rows_are_chosen_and_repeated(self, tiny: DeepDeltaForCausalLM) -> None:
        ids, more = random_ids(3, 5, 5), random_ids(3, 2, 5)
        full = tiny(torch.cat([ids, more], dim=1)).logits[:, 5:]
        for rows, change in (
            ([2, 0], lambda cache: cache.batch_select_indices(torch.tensor([2, 0]))),
            ([0, 0, 1, 1, 2, 2], lambda cache: cache.batch_repeat_interleave(2)),
        ):
            cache = DeltaCache()
            tiny(ids, past_key_values=cache)
            change(cache)
            torch.testing.assert_close(tiny(more[rows], past_key_values=cache).logits, full[rows])
            assert cache.get_seq_length() == 7

    def test_empty_and_reset(self, tiny: DeepDeltaForCausalLM) -> None:
        cache = DeltaCache()
        tiny(random_ids(2, 5, 5), past_key_values=cache)
        cache.reset()
        cache.batch_repeat_interleave(2)  # nothing to repeat
        assert (len(cache), cache.batch_size, cache.get_seq_length(), cache.decode) == (0, -1, 0, None)
        assert not cache.is_compileable
        assert not cache.is_croppable
        with pytest.raises(NotImplementedError, match="cannot be cropped: keep a copy"):
            cache.crop(-1)

    def test_a_mask_that_does_not_cover_the_cache_is_refused(self, tiny: DeepDeltaForCausalLM) -> None:
        cache = DeltaCache()
        tiny(random_ids(2, 5, 5), past_key_values=cache)
        with pytest.raises(ValueError, match=r"attention_mask has 2 columns, the cache and the input together 5 \+ 2"):
            tiny(random_ids(2, 2, 5), torch.ones(2, 2), cache)


class TestTraining:
    def test_the_loss_is_that_of_the_next_token(self, model: DeepDeltaForCausalLM, plain: LanguageModel) -> None:
        ids = random_ids(2, 9, 257)
        labels = ids.clone()
        labels[0, :4] = -100
        expected = F.cross_entropy(plain(ids)[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        output = model(ids, labels=labels)
        torch.testing.assert_close(output.loss, expected, check_dtype=False)
        assert output.past_key_values is None
        # Trainer gives the number of labels of all the batches whose gradients it adds up; 13 count here.
        part = model(ids, labels=labels, num_items_in_batch=52).loss
        torch.testing.assert_close(part, output.loss * 13 / 52)
        loss, logits = model(ids, labels=labels, return_dict=False)
        assert torch.equal(loss, output.loss)
        assert torch.equal(logits, output.logits)

    def test_gradients_are_those_of_the_language_model(self, model: DeepDeltaForCausalLM, plain: LanguageModel) -> None:
        ids = random_ids(2, 9, 257)
        model.zero_grad()
        plain.zero_grad()
        model(ids, labels=ids).loss.backward()
        F.cross_entropy(plain(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        for name, parameter in plain.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(model.model.get_parameter(name).grad, parameter.grad, atol=1e-6, rtol=1e-4)

    def test_it_learns(self, tmp_path: Path) -> None:
        model, ids = auto(save(make(), tmp_path)).train(), random_ids(4, 8, 5)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2)
        losses = []
        for _ in range(30):
            loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert losses[-1] < 0.5 * losses[0]

    @torch.no_grad()
    def test_saved_weights_can_be_put_back_into_a_model(self, tmp_path: Path) -> None:
        # Trainer does so when it resumes, or takes the best checkpoint at the end.
        model, other, ids = (
            auto(save(make(), tmp_path)),
            auto(save(make(seed=1), tmp_path / "other")),
            random_ids(2, 6, 5),
        )
        model.save_pretrained(tmp_path / "saved")
        for weights in (load_file(tmp_path / "saved" / "model.safetensors"), model.state_dict()):
            other.model.embedding.weight.zero_()
            assert str(other.load_state_dict(weights)) == "<All keys matched successfully>"
            assert torch.equal(other(ids).logits, model(ids).logits)

    def test_the_vocabulary_can_grow(self, tmp_path: Path) -> None:
        model, ids = auto(save(make(), tmp_path)), random_ids(2, 6, 5)
        before = model(ids).logits
        torch.manual_seed(0)
        assert model.resize_token_embeddings(205, mean_resizing=False).num_embeddings == 205
        torch.testing.assert_close(model(ids).logits[..., :5], before)
        assert float(model.get_input_embeddings().weight[5:].detach().std()) == pytest.approx(0.5, rel=0.1)
        model(torch.tensor([[204]]), labels=torch.tensor([[204]]))
        model.save_pretrained(tmp_path / "grown")
        assert torch.equal(auto(tmp_path / "grown")(ids).logits, model(ids).logits)
        assert load_checkpoint(tmp_path / "grown").config.vocab_size == 205

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.job import BatchLimits
from service.errors import ConfigInvalid, UnknownModel, UnknownVersion
from service.repository.aliases import Target, parse_aliases
from service.repository.config import Serving, parse_config
from service.repository.from_settings import options_from
from service.repository.generation import Generation
from service.repository.policy import VersionPolicy, parse_policy
from service.settings import InvalidSettings, Settings
from service.signing.minisign import generate
from tests.service.repository.running import answer, in_loop, opened, running
from tests.service.tiny_bundle import BundleMaker


@pytest.mark.parametrize(
    ("written", "policy"),
    [
        ("latest", VersionPolicy()),
        ("latest 2", VersionPolicy("latest", 2)),
        ("latest:3", VersionPolicy("latest", 3)),
        ("all", VersionPolicy("all")),
        ([3, 1, 3], VersionPolicy("specific", numbers=(1, 3))),
        (7, VersionPolicy("specific", numbers=(7,))),
        ("1, 3", VersionPolicy("specific", numbers=(1, 3))),
    ],
)
def test_policies_are_read_as_people_write_them(written: Any, policy: VersionPolicy) -> None:
    assert parse_policy(written) == policy
    assert parse_policy(str(policy)) == policy


@pytest.mark.parametrize(
    "written",
    ["", "newest", "latest 0", "latest -1", "all 2", [], [0], [-1], [True], ["1"], 0, None, 1.5, {}, "1; 2", "0"],
)
def test_what_is_no_policy_is_refused_with_the_forms(written: Any) -> None:
    with pytest.raises(ValueError, match="a version policy is `latest`, `latest 2`, `all`, or version numbers"):
        parse_policy(written)


@given(st.lists(st.integers(1, 9), unique=True), st.integers(1, 4))
def test_the_newest_come_first_until_there_are_enough(versions: list[int], count: int) -> None:
    policy = VersionPolicy("latest", count)
    assert policy.candidates(versions) == sorted(versions, reverse=True)
    assert [n for n in range(6) if policy.is_enough(n)] == list(range(count, 6))
    assert not VersionPolicy("all").is_enough(99)


def test_a_file_is_put_over_the_defaults() -> None:
    defaults = Serving(VersionPolicy("all"), 8, BatchLimits(max_rows=64, bucket_rows=(8, 64), queue_limit=5))
    assert parse_config(None).over(defaults) == defaults
    serving = parse_config("instances = 2\nwarm_up = false\n[batching]\nmax_rows = 16\nmax_wait_ms = 1.5").over(
        defaults
    )
    assert serving == Serving(
        VersionPolicy("all"), 4, BatchLimits(16, 1.5, bucket_rows=(8,), queue_limit=5, instances=2), warm_up=False
    )
    assert parse_config("threads = 3\ninstances = 2").over(defaults).threads == 3
    assert parse_config("versions = [2]").over(defaults).policy == VersionPolicy("specific", numbers=(2,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "config.toml is not TOML"),
        ("instances = 0", "config.toml: instances: .*greater"),
        ("instances = '2'\nx = 1", "config.toml: x: unknown field"),
        ("versions = 'new'", "config.toml: versions: a version policy is"),
        ("batching = 3", "config.toml: batching"),
        ("[generation]\nslots = -1", "generation.slots: Input should be greater"),
        ("[batching]\nmax_row = 3", "config.toml: batching.max_row: unknown field"),
        ("[batching]\nbucket_rows = [64]\nmax_rows = 8", "batching: bucket_rows must grow, from 1 to max_rows=8"),
    ],
)
def test_a_wrong_file_is_refused_by_field(text: str, message: str) -> None:
    with pytest.raises(ConfigInvalid, match=message):
        parse_config(text).over(Serving())


def test_aliases_lead_to_models_and_versions() -> None:
    text = 'production = "english@3"\nnewest = "english"\nlive = "production"\ngone = "nix"'
    assert parse_aliases(text, ["english"]) == {
        "production": Target("english", "3"),
        "newest": Target("english"),
        "live": Target("english", "3"),
        "gone": Target("nix"),
    }
    assert parse_aliases(None, []) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "is not TOML"),
        ('a = "a"', "circle: a -> a$"),
        ('a = "b"\nb = "c"\nc = "b"', "circle: a -> b -> c -> b$"),
        ('a = "b@2"\nb = "m"', "'a' adds a version to the alias 'b'"),
        ('m = "x"', "'m' is the name of a model"),
        ("a = 3", "write alias ="),
        ('a = "m@0"', "write alias ="),
        ('a = "../m"', "write alias ="),
        ('"A b" = "m"', "write alias ="),
    ],
)
def test_wrong_aliases_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigInvalid, match=message):
        parse_aliases(text, ["m"])


@in_loop
async def test_aliases_answer_follow_and_survive_a_wrong_file(
    tmp_path: Path, maker: BundleMaker, caplog: pytest.LogCaptureFixture
) -> None:
    for version in ("1", "2"):
        maker.write(tmp_path, version=version)
    (tmp_path / "tiny" / "config.toml").write_text('versions = "all"')
    aliases = tmp_path / "aliases.toml"
    aliases.write_text('stable = "tiny@1"\nnewest = "tiny"\nlost = "tiny@9"')
    async with running(tmp_path) as repository:
        assert (repository.get("stable").version, repository.get("newest").version) == ("1", "2")
        assert repository.get("newest", "1").version == "1"
        assert (repository.versions("stable"), repository.versions("newest")) == (["1"], ["1", "2"])
        await answer(repository, "stable", "1")

        with pytest.raises(UnknownVersion, match="stands for version 1 of 'tiny' alone"):
            repository.get("stable", "2")
        with pytest.raises(UnknownVersion, match="version '9' of 'tiny' is unknown"):
            repository.get("lost")
        with pytest.raises(UnknownModel, match="known: lost, newest, stable, tiny"):
            repository.get("nix")
        aliases.write_text('stable = "stable"')
        await repository.refresh()
        await repository.refresh()
        assert repository.get("stable").version == "1"
        assert caplog.messages.count("aliases refused") == 1
        aliases.write_text('stable = "tiny@2"')
        await repository.refresh()
        assert repository.get("stable").version == "2"
        with pytest.raises(UnknownModel):
            repository.get("newest")


def test_settings_become_options(tmp_path: Path) -> None:
    key = generate().public
    settings = Settings(
        repository=tmp_path, threads=6, instances=2, batch_rows=16, batch_buckets="4,16", batch_preferred="8",
        version_policy="latest:2", control="explicit", startup_models="a, b", signatures="required",
        trusted_keys=key.encode(), memory_limit_bytes=80, queue_limit=9, warm_up=False,
    )  # fmt: skip
    options = options_from(settings)
    limits = BatchLimits(16, 0.0, (8,), (4, 16), 9, instances=2)
    generation = Generation(cache_bytes=20)
    assert options.defaults == Serving(VersionPolicy("latest", 2), 6, limits, warm_up=False, generation=generation)
    assert (options.control, options.startup_models, options.memory_limit_bytes) == ("explicit", ("a", "b"), 80)
    assert options.trusted is not None
    assert len(options.trusted) == 1
    assert options_from(Settings(startup_models="none")).startup_models == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"version_policy": "newest"}, "version_policy='newest': a version policy is"),
        ({"batch_buckets": "64"}, "bucket_rows must grow, from 1 to max_rows=32"),
        ({"signatures": "required"}, "needs trusted_keys"),
        ({"trusted_keys": "RWabc"}, "set signatures=required"),
        ({"signatures": "required", "trusted_keys": "RWabc"}, "trusted_keys: RWabc: no file, and no key"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        options_from(Settings(**settings))


def test_a_name_in_a_repository_never_becomes_a_path(tmp_path: Path, maker: BundleMaker) -> None:
    maker.write(tmp_path / "models")
    maker.write(tmp_path, "secret")
    repository = opened(tmp_path / "models")

    for name in ("../secret", "..", "", "/", "tiny/1", "tiny\x00", str(tmp_path / "secret")):
        with pytest.raises(UnknownModel):
            repository.get(name)
    for version in ("../1", "01", "1/", "٣", "-1"):
        with pytest.raises(UnknownVersion):
            repository.get("tiny", version)

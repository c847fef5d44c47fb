"""Names on the hub, against a server on this machine that answers as the hub does."""

import errno
import os
import re

import hub_server
import pytest
import tiny

from rlhf_jax.command_line import explain
from rlhf_jax.data import hub
from rlhf_jax.model import pretrained, transformer

NAME = "someone/tiny-llama"


@pytest.fixture
def server(tmp_path):
    """(address, list of files asked for) of a hub that has one model, and one that it does not give whole."""
    folder = tmp_path / "published"
    pretrained.save(folder, tiny.parameters(transformer.specs(tiny.LLAMA, tiny.VOCABULARY)), tiny.LLAMA)
    (folder / "pytorch_model.bin").write_text("a copy nobody needs")
    with hub_server.serve({NAME: folder, "someone/cut": folder}) as server:
        yield server


def find(names, address, cache):
    """What `folder_of` returns or raises for each name in a fresh process whose hub is `address`."""
    code = (
        "from rlhf_jax.model import pretrained\n"
        "from rlhf_jax.config import ConfigError, ModelConfig\n"
        f"for name in {names!r}:\n"
        "    model = ModelConfig(pretrained=name)\n"
        "    try: print(pretrained.folder_of(name), pretrained.architecture(model).kv_heads)\n"
        "    except ConfigError as error: print('ConfigError', error)"
    )
    return hub_server.printed(code, address, cache)


def test_a_hub_name_is_downloaded_once_and_without_what_is_not_read(server, tmp_path):
    address, asked = server
    folder, kv_heads = find([NAME], address, tmp_path / "cache")[0].split()
    assert kv_heads == "2"
    assert {"config.json", "model.safetensors"} <= set(os.listdir(folder))
    assert "pytorch_model.bin" not in asked
    offline, unreachable = find([NAME, "someone/else"], "http://127.0.0.1:9", tmp_path / "cache")
    assert offline.split()[0] == folder and "the hub cannot be reached" in unreachable


def test_what_the_hub_does_not_give_is_one_line_each(server, tmp_path):
    told = {
        "someone/nothing": r"the hub does not give it to us \(404\)",
        "someone/licensed": r"the hub does not give it to us \(401\); .*HF_TOKEN",
        "someone/cut": r"the download broke off \(.*\); run again",
        "someone/portal": r"what answers is not the hub; perhaps this network asks to log in first$",
        "someone/busy": r"the hub answers with 503 and gives nothing; try again later$",
    }
    found = find(list(told), server[0], tmp_path / "cache")
    assert len(found) == len(told)
    for line, (name, message) in zip(found, told.items(), strict=True):
        assert re.match(f"ConfigError pretrained model '{name}': {message}", line)


def test_a_full_disk_is_told_as_one(monkeypatch):
    def download(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(hub, "snapshot_download", download)
    status, told = explain(pytest.raises(OSError, pretrained.folder_of, "someone/else").value)
    assert status == 2 and told.startswith(hub.HF_HUB_CACHE) and "No space left on device" in told

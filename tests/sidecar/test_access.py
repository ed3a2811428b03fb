"""API keys, probes, settings and the OpenAPI document."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from tests.sidecar.conftest import CHAT, Start, chat
from tests.sidecar.standin import Standin
from tunesmith_process.settings import SettingsError
from tunesmith_sidecar.access import Keys
from tunesmith_sidecar.settings import PREFIX, Settings, parse_settings

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("header", "status"),
    [
        pytest.param("Bearer sesame", 200, id="the right key"),
        pytest.param("bearer  sesame ", 200, id="the scheme in small letters"),
        pytest.param("Bearer sesam", 401, id="a beginning of the key"),
        pytest.param("Bearer ", 401, id="an empty key"),
        pytest.param("sesame", 401, id="no scheme"),
        pytest.param("Basic sesame", 401, id="another scheme"),
        pytest.param("", 401, id="nothing"),
    ],
)
async def test_keys(start: Start, engine: Standin, header: str, status: int) -> None:
    serving = await start(api_key="sesame")
    found, body, _ = await serving.post(CHAT, chat(), Authorization=header)
    assert found == status
    assert bool(engine.requests) == (status == 200)
    if status == 401:
        assert body["error"]["code"] == "invalid_api_key"
    assert (await serving.get("/readyz"))[0] == 200


def test_keys_rotate_with_their_file_and_survive_its_absence(tmp_path: Path) -> None:
    file, now = tmp_path / "keys", [0.0]
    file.write_text("old\n")
    keys = Keys(Settings(revision="7", api_key_file=file), lambda: now[0])
    file.write_text("new\nother\n")
    os.utime(file, ns=(1, 1))
    assert keys.allow("Bearer old")
    now[0] = 2.0
    assert not keys.allow("Bearer old")
    assert keys.allow("Bearer new")
    assert keys.allow("Bearer other")
    file.unlink()
    now[0] = 4.0
    assert keys.allow("Bearer new")
    assert not keys.allow("Bearer old")


def test_a_key_file_without_a_key_does_not_open_the_door(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    for content in (None, "", "\n \n"):
        if content is not None:
            file.write_text(content)
        with pytest.raises(SettingsError, match="api_key_file"):
            Keys(Settings(revision="7", api_key_file=file))


async def test_ready_only_with_the_right_model(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "digest"
    serving = await start(model_digest=DIGEST, model_digest_file=file)
    assert await serving.get("/readyz") == (503, "the model was not fetched yet")
    file.write_text("sha256:" + "cd" * 32)
    status, text = await serving.get("/readyz")
    assert (status, "wanted is " + DIGEST in text) == (503, True)
    file.write_text(DIGEST + "\n")
    assert await serving.get("/readyz") == (200, "ok")
    serving.gate.start_draining()
    assert await serving.get("/readyz") == (503, "draining")
    assert (await serving.get("/livez"))[0] == 200
    assert (await serving.get("/enginez"))[0] == 200


async def test_ready_only_when_the_engine_is(start: Start, engine: Standin) -> None:
    engine.is_loading = True
    serving = await start()
    assert await serving.get("/readyz") == (503, "the engine does not answer")
    assert (await serving.get("/enginez"))[0] == 503
    engine.is_loading = False
    assert (await serving.get("/enginez"))[0] == 200
    assert (await serving.get("/readyz"))[0] == 200


async def test_an_engine_too_busy_for_a_probe_stays_ready(start: Start, engine: Standin) -> None:
    serving = await start()
    assert (await serving.post(CHAT, chat()))[0] == 200
    engine.is_loading = True
    assert (await serving.get("/readyz"))[0] == 200


async def test_the_engines_hook_is_answered_when_nothing_is_in_progress(start: Start) -> None:
    serving = await start()
    hook = asyncio.create_task(serving.get("/drained"))
    await asyncio.sleep(0.05)
    serving.gate.start_draining()
    await asyncio.sleep(0.05)
    assert not hook.done()
    serving.gate.drained.set()
    assert await hook == (200, "drained")


async def test_the_document_names_every_route_and_resolves(start: Start) -> None:
    serving = await start(api_key="k")
    status, text = await serving.get("/openapi.json")
    document = json.loads(text)
    assert status == 200
    assert set(document["paths"]) == {
        CHAT,
        "/v1/completions",
        "/v1/models",
        "/api/v1/predict",
        "/api/v1/feedback",
    }
    assert document["security"] == [{"key": []}]
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(document["components"]["schemas"])
    assert "maxTokens" in document["components"]["schemas"]["Parameters"]["properties"]


def test_settings_come_from_variables_and_options_win() -> None:
    environment = {PREFIX + "REVISION": "7", PREFIX + "PORT": "1", "HOME": "/"}
    settings = parse_settings(environment, ["--port", "2", "--log-path-style", "true"])
    assert (settings.revision, settings.port, settings.log_path_style) == ("7", 2, True)
    assert settings.max_concurrent_requests == 100
    assert settings.request_timeout_seconds == 30


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"PORTT": "1"}, "TUNESMITH_SIDECAR_PORTT: Extra inputs"),
        ({"PORT": "x"}, "TUNESMITH_SIDECAR_PORT: Input should be"),
        ({"ENGINE_URL": "ftp://x"}, "TUNESMITH_SIDECAR_ENGINE_URL"),
        ({"MODEL_DIGEST": DIGEST}, "model_digest and model_digest_file"),
        ({"API_KEY": " "}, "api_key is empty"),
        ({"API_KEY": "secret", "API_KEY_FILE": "/x"}, "not both"),
        ({"ANALYSIS_TOKEN_DIGEST": "secret"}, "TUNESMITH_SIDECAR_ANALYSIS_TOKEN_DIGEST"),
        ({"LOG_URI": "file:///x"}, "TUNESMITH_SIDECAR_LOG_URI"),
        ({"LOG_FLUSH_BYTES": "20", "LOG_BUFFER_BYTES": "10"}, "log_buffer_bytes"),
    ],
)
def test_wrong_settings_say_which_and_keep_secrets(given: dict[str, str], message: str) -> None:
    environment = {PREFIX + name: text for name, text in ({"REVISION": "7"} | given).items()}
    with pytest.raises(SettingsError, match=message) as caught:
        parse_settings(environment, [])
    assert "secret" not in str(caught.value)

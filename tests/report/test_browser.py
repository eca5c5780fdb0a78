"""The page in a browser."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest


def chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """Headless Chromium, driven over its own protocol, so that key presses are real."""

    def __init__(self, executable: str, profile: Path) -> None:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
        self.port = profile / "DevToolsActivePort"
        self.process = subprocess.Popen(
            [executable, *options, f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.DEVNULL
        )
        self.faults: list[dict] = []
        self.number = 0

    async def connect(self, session: Any) -> None:
        for _ in range(300):
            if self.port.exists() and len(lines := self.port.read_text().splitlines()) == 2:
                break
            await asyncio.sleep(0.1)
        async with session.get(f"http://127.0.0.1:{lines[0]}/json/list") as answer:
            (target, *_) = [target for target in await answer.json() if target["type"] == "page"]
        self.socket = await session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)
        for domain in ("Page", "Runtime", "Log"):
            await self.send(f"{domain}.enable")

    async def send(self, method: str, **params: Any) -> dict:
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": params})
        while True:
            message = await self.socket.receive_json(timeout=60)
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
                self.faults.append(message)
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]

    async def open(self, address: str) -> None:
        await self.send("Page.navigate", url=address)
        for _ in range(100):
            if await self.value(f"location.href == {json.dumps(address)} && document.readyState == 'complete'"):
                return
            await asyncio.sleep(0.1)
        raise TimeoutError(address)

    async def value(self, expression: str) -> Any:
        result = await self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        return result["result"].get("value")

    async def press(self, key: str, code: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            await self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)
        await asyncio.sleep(0.1)


async def in_a_browser(browser: Browser, address: str) -> None:
    look = "getComputedStyle(document.body).backgroundColor"
    clip = "getComputedStyle(document.querySelector('.before')).clipPath"
    async with aiohttp.ClientSession() as session:
        await browser.connect(session)
        await browser.open(address)
        await browser.value("document.querySelector('.frames input').focus()")
        before = await browser.value(clip)
        for _ in range(5):
            await browser.press("ArrowRight", 39)
        assert before == "inset(0px 50% 0px 0px)"
        assert await browser.value(clip) == "inset(0px 45% 0px 0px)"
        light = await browser.value(look)
        await browser.value("document.getElementById('theme').click()")
        assert (await browser.value("document.documentElement.dataset.theme"), await browser.value(look) != light) == (
            "dark",
            True,
        )
        await browser.open(address + "#others")
        assert await browser.value(look) != light  # remembered
        await browser.value("document.getElementById('theme').click()")
        assert await browser.value(look) == light
        for _ in range(400):  # the protocol is reachable with the Tab key alone
            await browser.press("Tab", 9)
            if await browser.value("document.activeElement.className") == "how":
                break
        shown = "getComputedStyle(document.querySelector('.how:focus + .tip')).display"
        assert await browser.value(shown) == "block"
        await browser.press("Escape", 27)
        assert await browser.value(shown) == "none"
        await browser.send(
            "Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=True
        )
        assert await browser.value("innerWidth") == 400  # tables scroll instead of the page
        assert await browser.value("document.documentElement.scrollWidth") == 400
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        await browser.value("localStorage.clear()")
        await browser.send("Emulation.setEmulatedMedia", features=dark)
        await browser.send("Emulation.setScriptExecutionDisabled", value=True)
        await browser.send("Page.reload")
        await asyncio.sleep(1)
        assert await browser.value(look) != light  # follows the system
        widths = await browser.value("[...document.querySelector('.frames').children].map((e) => e.clientWidth)")
        assert widths[0] == widths[1] > 100  # without scripts both frames stand side by side
        assert widths[3] == 0
        await browser.send("Browser.close")


@pytest.mark.slow
def test_the_page_works_in_a_browser(page, runs, tmp_path):
    """From disk: keys move the slider and reach the protocols, the switch changes colours, nothing is too wide."""
    executable = chromium()
    if not executable:
        pytest.skip("needs Chromium: apt-get install chromium")
    browser = Browser(executable, tmp_path / "profile")
    try:
        asyncio.run(in_a_browser(browser, (runs / "report" / "index.html").as_uri()))
    finally:
        browser.process.terminate()
        browser.process.wait(30)
    assert browser.faults == []

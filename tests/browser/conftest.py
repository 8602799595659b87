"""A headless Chromium, for all tests of this folder.

Needs selenium, and a chromium with its driver (Debian: `apt-get install chromium chromium-driver`). Tests are skipped
where one is missing, unless DGPO_BROWSER=1 says that they must be there.
"""

import os
import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


def need(present, what):
    if not present and os.environ.get("DGPO_BROWSER") == "1":
        pytest.fail(f"{what} is missing; see tests/browser/conftest.py")
    if not present:
        pytest.skip(f"{what} is missing; see tests/browser/conftest.py")


@pytest.fixture(scope="module")
def browser():
    need(CHROMIUM, "chromium")
    need(DRIVER, "chromedriver")
    try:
        from selenium import webdriver
    except ModuleNotFoundError as error:
        need(False, error.name)
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1500,1400"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(30)
    yield driver
    driver.quit()

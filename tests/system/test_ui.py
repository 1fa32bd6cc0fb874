"""The Airflow UI in a real browser: connection forms, Test buttons, the link to PanDA."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.system.conftest import Stack

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1500,1400",
)  # fmt: skip
"""Without these, Chromium looks for hosts outside of this machine at every start."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    driver = shutil.which("chromedriver")
    if driver is None or shutil.which("chromium") is None:
        pytest.skip("Debian's chromium and chromium-driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=Service(driver))
    yield browser
    browser.quit()


def open_connections(browser: webdriver.Chrome, stack: Stack) -> None:
    """Open the page of connections and wait for both."""
    browser.get(f"{stack.airflow.url}/connections")
    WebDriverWait(browser, 30).until(lambda b: "panda_default" in b.page_source and "broker" in b.page_source)


def row_button(browser: webdriver.Chrome, conn_id: str, label: str) -> WebElement:
    """Press a button in the row of a connection, and return it."""
    row = browser.find_element(By.XPATH, f"//tr[.//*[text()='{conn_id}']]")
    button = row.find_element(By.CSS_SELECTOR, f"button[aria-label='{label}']")
    browser.execute_script("arguments[0].click()", button)
    return button


def colour(browser: webdriver.Chrome, button: WebElement) -> tuple[int, int, int]:
    """Return red, green and blue of a button's icon, by which Airflow shows how a test went."""
    text = browser.execute_script("return getComputedStyle(arguments[0].querySelector('svg')).color", button)
    red, green, blue = (int(part) for part in re.findall(r"\d+", text)[:3])
    return red, green, blue


@pytest.mark.parametrize("conn_id", ["panda_default", "broker"])
def test_test_button_turns_green(browser: webdriver.Chrome, stack: Stack, conn_id: str) -> None:
    open_connections(browser, stack)
    row = browser.find_element(By.XPATH, f"//tr[.//*[text()='{conn_id}']]")
    before = colour(browser, row.find_element(By.CSS_SELECTOR, "button[aria-label='Test Connection']"))
    button = row_button(browser, conn_id, "Test Connection")
    WebDriverWait(browser, 60).until(lambda b: colour(b, button) != before)
    red, green, _ = colour(browser, button)
    assert green > red, [t.text for t in browser.find_elements(By.CSS_SELECTOR, "[data-scope=toast]")]


@pytest.mark.parametrize(
    ("conn_id", "labels"),
    [
        ("panda_default", ["Server URL", "Token", "Authentication", "VO", "Broker connection", "Instance secret"]),
        ("broker", ["Broker addresses", "Passcode", "Publish-only login", "Publish-only passcode"]),
    ],
)
def test_form_shows_the_fields_and_no_secret(
    browser: webdriver.Chrome, stack: Stack, conn_id: str, labels: list[str]
) -> None:
    open_connections(browser, stack)
    row_button(browser, conn_id, "Edit Connection")
    dialog = WebDriverWait(browser, 30).until(lambda b: b.find_element(By.CSS_SELECTOR, "[role=dialog]"))
    WebDriverWait(browser, 30).until(lambda _: labels[0] in dialog.text)
    text = dialog.text
    for button in dialog.find_elements(By.CSS_SELECTOR, "button[data-scope=accordion]"):
        if button.text == "Extra Fields":
            button.click()
    WebDriverWait(browser, 30).until(lambda _: labels[-1] in dialog.text)
    text += dialog.text
    for label in labels:
        assert label in text
    shown = [field.get_attribute("value") or "" for field in dialog.find_elements(By.TAG_NAME, "input")]
    for secret in (stack.grid.token(), stack.broker.subscriber.passcode, stack.broker.publisher.passcode):
        assert secret not in text
        assert secret not in shown


def test_link_to_the_panda_task(stack: Stack) -> None:
    stack.airflow.wait_for_dags(["hello_grid"])
    run_id = stack.airflow.trigger("hello_grid")
    assert stack.airflow.wait_for_run("hello_grid", run_id) == "success"
    links = stack.airflow.get(f"/dags/hello_grid/dagRuns/{run_id}/taskInstances/hello/links")["extra_links"]
    task_id = stack.airflow.xcom("hello_grid", run_id, "hello", key="panda_task_id")
    assert links == {"PanDA task": f"{stack.grid.url}/task/{task_id}/"}

"""The Airflow UI in a real browser: connection forms, Test buttons, the link to PanDA."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
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


def row_button(browser: webdriver.Chrome, conn_id: str, label: str) -> None:
    """Press a button in the row of a connection."""
    row = browser.find_element(By.XPATH, f"//tr[.//*[text()='{conn_id}']]")
    button = row.find_element(By.CSS_SELECTOR, f"button[aria-label='{label}']")
    browser.execute_script("arguments[0].click()", button)


@pytest.mark.parametrize("conn_id", ["panda_default", "broker"])
def test_test_button_says_success(browser: webdriver.Chrome, stack: Stack, conn_id: str) -> None:
    open_connections(browser, stack)
    row_button(browser, conn_id, "Test Connection")
    toast = WebDriverWait(browser, 60).until(lambda b: b.find_elements(By.CSS_SELECTOR, "[data-scope=toast]"))
    assert "Success" in toast[0].text, toast[0].text


@pytest.mark.parametrize(
    ("conn_id", "labels"),
    [
        ("panda_default", ["Server URL", "Authentication", "Queue", "Broker connection", "Signing key", "Result store"]),
        ("broker", ["Broker addresses", "TLS", "Result destination", "Publish-only login", "Heart-beat"]),
    ],
)
def test_form_has_the_fields(browser: webdriver.Chrome, stack: Stack, conn_id: str, labels: list[str]) -> None:
    open_connections(browser, stack)
    row_button(browser, conn_id, "Edit Connection")
    dialog = WebDriverWait(browser, 30).until(lambda b: b.find_element(By.CSS_SELECTOR, "[role=dialog]"))
    WebDriverWait(browser, 30).until(lambda _: labels[0] in dialog.text)
    for label in labels:
        assert label in dialog.text
    shown = [field.get_attribute("value") or "" for field in dialog.find_elements(By.TAG_NAME, "input")]
    for secret in (stack.grid.token(), stack.broker.subscriber.passcode, stack.broker.publisher.passcode):
        assert secret not in dialog.text
        assert secret not in shown


def test_link_to_the_panda_task(stack: Stack) -> None:
    stack.airflow.wait_for_dags(["hello_grid"])
    run_id = stack.airflow.trigger("hello_grid")
    assert stack.airflow.wait_for_run("hello_grid", run_id) == "success"
    links = stack.airflow.get(f"/dags/hello_grid/dagRuns/{run_id}/taskInstances/hello/links")["extra_links"]
    task_id = stack.airflow.xcom("hello_grid", run_id, "hello", key="panda_task_id")
    assert links == {"PanDA task": f"{stack.grid.url}/task/{task_id}/"}

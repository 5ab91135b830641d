//! A real browser, in which pages are opened as their readers do.
//!
//! Chromium, by its own driver. It has a profile of its own that is empty, and is told not to ask the network for
//! anything on its own account, so that whatever it asks for was asked for by the page.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use thirtyfour::{Capabilities, WebDriver};
use tokio::runtime::Runtime;

use crate::workspace;

/// What a reader has asked their system for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Dark letters on a light ground.
    Light,
    /// The other way round.
    Dark,
}

/// A browser with one window.
#[derive(Debug)]
pub struct Browser {
    runtime: Runtime,
    session: WebDriver,
    driver: Child,
    _profile: tempfile::TempDir,
}

const FLAGS: [&str; 12] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--hide-scrollbars",
];

impl Browser {
    /// A new one.
    pub fn start() -> Self {
        let profile = tempfile::tempdir().expect("make a directory for the browser's profile");
        // It chooses a port itself, and says which.
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start chromedriver (scripts/install-deps test installs it)");
        let said = driver.stdout.take().expect("its standard output is ours");
        let port = BufReader::new(said)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| {
                line.split_once("successfully on port ")?
                    .1
                    .trim_end_matches('.')
                    .parse::<u16>()
                    .ok()
            })
            .expect("chromedriver says on which port it listens");
        let mut flags: Vec<String> = FLAGS.iter().map(ToString::to_string).collect();
        flags.push(format!("--user-data-dir={}", profile.path().display()));
        let wanted = json!({
            "browserName": "chrome",
            "goog:chromeOptions": {
                "binary": "/usr/bin/chromium",
                "args": flags,
                "perfLoggingPrefs": { "enableNetwork": true },
            },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let wanted: Capabilities =
            serde_json::from_value(wanted).expect("capabilities are an object");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("start a runtime for the browser's client");
        let session = runtime
            .block_on(async { WebDriver::new(format!("http://127.0.0.1:{port}"), wanted).await })
            .expect("chromedriver starts chromium");
        Self {
            runtime,
            session,
            driver,
            _profile: profile,
        }
    }

    /// Opens a file and waits until it is loaded.
    pub fn open(&self, file: &Path, scheme: Scheme, width: u32, height: u32) {
        let scheme = match scheme {
            Scheme::Light => "light",
            Scheme::Dark => "dark",
        };
        self.command(
            "Emulation.setEmulatedMedia",
            json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] }),
        );
        self.resize(width, height);
        self.command("Performance.disable", json!({}));
        self.command("Performance.enable", json!({ "timeDomain": "threadTicks" }));
        self.was_quiet();
        let _of_the_page_before = self.log("performance");
        let url = format!("file://{}", file.display());
        self.runtime
            .block_on(async { self.session.goto(url).await })
            .unwrap_or_else(|e| panic!("open {}: {e}", file.display()));
    }

    /// What the page that is open complained of, and nobody asked for, fails the test: most of what can go wrong in
    /// a page happens when somebody uses it.
    fn was_quiet(&self) {
        let unread = self.log("browser");
        assert!(unread.is_empty(), "the page complained: {unread:#?}");
    }

    /// Runs a script in each page that is opened from now on, before anything of the page's own.
    pub fn watch(&self, script: &str) {
        self.command(
            "Page.addScriptToEvaluateOnNewDocument",
            json!({ "source": script }),
        );
    }

    /// Milliseconds for which the page's main thread was given a processor since the page was opened, however long
    /// it had to wait for it.
    pub fn main_thread(&self) -> f64 {
        let told = self.command("Performance.getMetrics", json!({}));
        let metrics = told["metrics"].as_array().expect("a list of metrics");
        let tasks = metrics
            .iter()
            .find(|metric| metric["name"] == "TaskDuration");
        tasks
            .and_then(|metric| metric["value"].as_f64())
            .expect("the time of its tasks")
            * 1e3
    }

    /// Which browser it is.
    pub fn version(&self) -> String {
        let told = self.command("Browser.getVersion", json!({}));
        told["product"].as_str().unwrap_or("unknown").to_owned()
    }

    /// The window's size, in the page's own pixels.
    pub fn resize(&self, width: u32, height: u32) {
        self.command(
            "Emulation.setDeviceMetricsOverride",
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false }),
        );
    }

    /// What a function body returns in the page. A promise is waited for.
    pub fn evaluate(&self, body: &str) -> Value {
        let answer = self.command(
            "Runtime.evaluate",
            json!({
                "expression": format!("(async () => {{ {body} }})()"),
                "awaitPromise": true,
                "returnByValue": true,
                "userGesture": true,
            }),
        );
        assert!(
            answer.get("exceptionDetails").is_none(),
            "{body}: {answer:#}"
        );
        answer["result"]["value"].clone()
    }

    /// What whoever hears the page instead of seeing it is told that an element and all in it are.
    pub fn roles(&self, selector: &str) -> Vec<String> {
        let found = self.command(
            "Runtime.evaluate",
            json!({ "expression": format!("document.querySelector({selector:?})") }),
        );
        let of = json!({ "objectId": found["result"]["objectId"] });
        let described = self.command("DOM.describeNode", of);
        let whole = self.command("Accessibility.getFullAXTree", json!({}));
        let nodes = whole["nodes"].as_array().expect("a list of nodes");
        let find = |id: &Value| nodes.iter().find(|node| node["nodeId"] == *id);
        let first = nodes
            .iter()
            .find(|node| node["backendDOMNodeId"] == described["node"]["backendNodeId"])
            .unwrap_or_else(|| panic!("{selector} is heard"));
        let mut next = vec![first];
        let mut roles = Vec::new();
        while let Some(node) = next.pop() {
            if node["ignored"] == false {
                roles.push(
                    node["role"]["value"]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned(),
                );
            }
            let children = node["childIds"].as_array().into_iter().flatten();
            next.extend(children.filter_map(find));
        }
        roles
    }

    /// Types into what has the focus.
    pub fn type_text(&self, text: &str) {
        self.command("Input.insertText", json!({ "text": text }));
    }

    /// Everything that the page, or the browser on its account, complained of since it was opened.
    pub fn complaints(&self) -> Vec<String> {
        self.log("browser")
    }

    /// The addresses of everything that was asked for since the page was opened, itself included.
    pub fn requests(&self) -> Vec<String> {
        let of_entry = |entry: &String| -> Option<String> {
            let event: Value = serde_json::from_str(entry).ok()?;
            let event = &event["message"];
            (event["method"] == "Network.requestWillBeSent").then(|| {
                event["params"]["request"]["url"]
                    .as_str()
                    .unwrap_or("?")
                    .to_owned()
            })
        };
        self.log("performance")
            .iter()
            .filter_map(of_entry)
            .collect()
    }

    /// Keeps a picture of the whole page below `target/screenshots`.
    pub fn screenshot(&self, name: &str) -> PathBuf {
        let height = self.evaluate("return document.documentElement.scrollHeight");
        let width = self.evaluate("return innerWidth");
        let number = |value: &Value, most| value.as_u64().map_or(800, |it| it.min(most)) as u32;
        self.resize(number(&width, 4_000), number(&height, 12_000));
        let picture = self
            .runtime
            .block_on(async { self.session.screenshot_as_png().await })
            .expect("take a picture of the page");
        let dir = workspace::root().join("target/screenshots");
        fs::create_dir_all(&dir).expect("make the directory for screenshots");
        let path = dir.join(format!("{name}.png"));
        fs::write(&path, picture).expect("write the screenshot");
        path
    }

    fn command(&self, name: &str, parameters: Value) -> Value {
        let tools = self.session.cdp();
        self.runtime
            .block_on(async { tools.send_raw(name, parameters).await })
            .unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// The messages that are new in one of the driver's logs.
    fn log(&self, kind: &str) -> Vec<String> {
        let entries = self
            .runtime
            .block_on(async { self.session.get_log(kind).await })
            .unwrap_or_else(|e| panic!("read the {kind} log: {e}"));
        entries.into_iter().map(|entry| entry.message).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let unread = match std::thread::panicking() {
            true => Vec::new(),
            false => self.log("browser"),
        };
        // Whatever a test came to, neither of the two is to outlive it.
        let session = self.session.clone();
        let _gone = self.runtime.block_on(async { session.quit().await });
        let _gone = self.driver.kill();
        let _gone = self.driver.wait();
        assert!(unread.is_empty(), "the page complained: {unread:#?}");
    }
}

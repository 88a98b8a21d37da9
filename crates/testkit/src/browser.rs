//! A real browser: headless Chromium, driven by the DevTools protocol over a pipe, so that nothing else needs to be installed
//! and no port is opened.
//!
//! Which one: `PORTCULLIS_TEST_CHROMIUM`, else `/usr/bin/chromium`. When the variable is set and the browser does not run, the
//! test fails; when it is not set and there is no browser, [`Browser::start_or_say`] says so and gives `None`.
use crate::temp::TempDir;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// The variable that names the browser.
pub const VARIABLE: &str = "PORTCULLIS_TEST_CHROMIUM";
const USUAL: &str = "/usr/bin/chromium";
/// As long as the browser may take for anything.
const PATIENCE: Duration = Duration::from_secs(120);

/// A browser with one page. Calls block: use it from `spawn_blocking` or a thread of its own.
#[derive(Debug)]
pub struct Browser {
    process: Child,
    input: ChildStdin,
    messages: Receiver<Value>,
    session: String,
    last: u64,
    _profile: TempDir,
}

fn which() -> Option<PathBuf> {
    match std::env::var_os(VARIABLE) {
        Some(path) => Some(path.into()),
        None => Path::new(USUAL).exists().then(|| USUAL.into()),
    }
}

impl Browser {
    /// Starts one with a new, empty profile. `None` when there is none on this machine and none was promised.
    pub fn start() -> Option<Self> {
        let program = which()?;
        let profile = TempDir::new("browser");
        // The browser speaks on descriptors 3 and 4; the shell puts our pipes there.
        let mut process = Command::new("/bin/sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null"])
            .arg(&program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--mute-audio"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--disable-dev-shm-usage", "--no-default-browser-check", "--disable-default-apps"])
            .args(["--disable-extensions", "--remote-debugging-pipe", "--window-size=1000,900"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
        let input = process.stdin.take().expect("a pipe");
        let output = process.stdout.take().expect("a pipe");
        let (send, messages) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(output).split(0) {
                let Ok(message) = message else { return };
                let Ok(message) = serde_json::from_slice(&message) else { continue };
                if send.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self { process, input, messages, session: String::new(), last: 0, _profile: profile };
        let target = browser.command("Target.createTarget", json!({ "url": "about:blank" }))["targetId"].clone();
        let attached = browser.command("Target.attachToTarget", json!({ "targetId": target, "flatten": true }));
        browser.session = attached["sessionId"].as_str().expect("a session").to_owned();
        browser.command("Page.enable", json!({}));
        browser.command("Network.enable", json!({}));
        Some(browser)
    }

    /// [`Browser::start`]; when there is none, that is said where the test harness does not swallow it.
    pub fn start_or_say() -> Option<Self> {
        let browser = Self::start();
        if browser.is_none() {
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            let words = format!("DID NOT RUN: {test}: there is no browser at {USUAL}, and {VARIABLE} names none\n");
            let _ = std::io::stderr().write_all(words.as_bytes());
        }
        browser
    }

    fn command(&mut self, method: &str, parameters: Value) -> Value {
        self.tried(method, parameters).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// As [`Browser::command`]; `Err`: what the browser says is wrong.
    fn tried(&mut self, method: &str, parameters: Value) -> Result<Value, Value> {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method, "params": parameters });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        let sent = self.input.write_all(format!("{message}\0").as_bytes()).and_then(|()| self.input.flush());
        sent.unwrap_or_else(|error| panic!("the browser is gone: {error}"));
        loop {
            match self.messages.recv_timeout(PATIENCE) {
                Ok(answer) if answer["id"] == self.last => {
                    return answer.get("error").map_or(Ok(answer["result"].clone()), |error| Err(error.clone()));
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => panic!("the browser does not answer {method}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the browser ended during {method}"),
            }
        }
    }

    /// A moment for the browser to work.
    fn pause(&mut self) {
        let _ = self.messages.recv_timeout(Duration::from_millis(50));
    }

    /// The value of an expression in the page. (This is the debugger's voice, not the page's: a page without script can be
    /// asked too.)
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true });
        self.command("Runtime.evaluate", parameters)["result"]["value"].clone()
    }

    /// Opens an address and waits until it is there.
    pub fn open(&mut self, address: &str) {
        let gone = self.command("Page.navigate", json!({ "url": address }));
        assert!(gone.get("errorText").is_none(), "{address}: {}", gone["errorText"]);
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'");
    }

    /// Waits until an expression is true.
    pub fn wait_for(&mut self, expression: &str) {
        for _ in 0..(PATIENCE.as_millis() / 50) {
            // A page that goes away while it is asked is not there yet.
            let parameters = json!({ "expression": expression, "returnByValue": true });
            if self.tried("Runtime.evaluate", parameters).is_ok_and(|answer| answer["result"]["value"] == true) {
                return;
            }
            self.pause();
        }
        panic!("never true: {expression}\nat {}\n{}", self.path(), self.text());
    }

    /// Path and query of the page.
    pub fn path(&mut self) -> String {
        self.evaluate("location.pathname + location.search").as_str().unwrap_or_default().to_owned()
    }

    /// The text that one sees.
    pub fn text(&mut self) -> String {
        self.evaluate("document.body ? document.body.innerText : ''").as_str().unwrap_or_default().to_owned()
    }

    /// How many elements a selector finds.
    pub fn count(&mut self, selector: &str) -> u64 {
        self.evaluate(&format!("document.querySelectorAll({}).length", json!(selector))).as_u64().unwrap_or(0)
    }

    /// Types into a field.
    pub fn fill(&mut self, selector: &str, text: &str) {
        let focused = self.evaluate(&format!(
            "(() => {{ const e = document.querySelector({}); if (!e) return false; e.focus(); e.select(); return true }})()",
            json!(selector)
        ));
        assert_eq!(focused, true, "there is no {selector}");
        self.command("Input.insertText", json!({ "text": text }));
    }

    /// Clicks with the mouse and waits until a new page is there, when one comes.
    pub fn click(&mut self, selector: &str) {
        let place = self.evaluate(&format!(
            "(() => {{ const e = document.querySelector({}); if (!e) return null; e.scrollIntoView({{block: 'center'}}); \
             const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] }})()",
            json!(selector)
        ));
        assert!(place.is_array(), "there is no {selector}");
        for kind in ["mousePressed", "mouseReleased"] {
            let parameters = json!({ "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1 });
            self.command("Input.dispatchMouseEvent", parameters);
        }
    }

    /// Clicks and waits until the click has led to another document.
    pub fn click_through(&mut self, selector: &str) {
        self.evaluate("window.before = true");
        self.click(selector);
        self.wait_for("window.before !== true && document.readyState === 'complete'");
    }

    /// The cookies that the browser holds: name, value, and the rest.
    pub fn cookies(&mut self) -> Vec<Value> {
        self.command("Network.getCookies", json!({}))["cookies"].as_array().cloned().unwrap_or_default()
    }

    /// Light or dark, wide or narrow.
    pub fn look(&mut self, dark: bool, width: u32, height: u32) {
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.command("Emulation.setEmulatedMedia", media);
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.command("Emulation.setDeviceMetricsOverride", size);
    }

    /// What one sees, as a PNG.
    pub fn screenshot(&mut self) -> Vec<u8> {
        let shot = self.command("Page.captureScreenshot", json!({ "format": "png" }));
        let text = shot["data"].as_str().unwrap_or_default();
        let plain = text.trim_end_matches('=').replace('+', "-").replace('/', "_");
        portcullis_wire::b64::decode(&plain).expect("an image")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

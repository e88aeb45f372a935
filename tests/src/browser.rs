//! A page in a browser without a screen, used as a person does: with the mouse and the keyboard.
//!
//! Chromium is spoken to in the DevTools protocol over a pair of pipes, which is its own interface (`--remote-debugging-pipe`): JSON
//! objects, a zero byte after each. So neither a driver nor a port is needed, and it ends when the pipe is closed.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

/// After this long, something hangs.
const DEADLINE: Duration = Duration::from_secs(120);

/// The program.
pub const CHROMIUM: &str = "chromium";

/// A browser with one page.
pub struct Browser {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    session: Option<String>,
    last_id: u64,
    events: Vec<Value>,
    _home: TempDir,
}

impl Browser {
    /// Starts one, with an empty page of this size in pixels.
    pub fn start(width: u32, height: u32) -> Self {
        let home = TempDir::with_prefix("recorder-browser-").expect("cannot make a temporary folder");
        // The pipes are to be its descriptors 3 and 4.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", "sh", CHROMIUM])
            .args(["--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"])
            .args(["--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run"])
            .arg(format!("--user-data-dir={}", home.path().display()))
            .arg(format!("--window-size={width},{height}"))
            .env("HOME", home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cannot start a shell");
        let to = child.stdin.take().expect("standard input is a pipe");
        let from = follow(BufReader::new(child.stdout.take().expect("standard output is a pipe")));
        let mut browser =
            Self { child, to, from, session: None, last_id: 0, events: Vec::new(), _home: home };
        let target = browser.ask("Target.createTarget", &json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.ask("Target.attachToTarget", &attach);
        browser.session = session["sessionId"].as_str().map(str::to_string);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.ask(&format!("{domain}.enable"), &json!({}));
        }
        browser
    }

    /// Opens a page, and waits until it is loaded; or follows a link within it.
    pub fn open(&mut self, url: &str) {
        self.events.clear();
        let answer = self.ask("Page.navigate", &json!({ "url": url }));
        assert!(answer.get("errorText").is_none(), "{url}: {answer}");
        // Within the same page there is nothing to load.
        let end = if answer.get("loaderId").is_some() {
            "Page.loadEventFired"
        } else {
            "Page.navigatedWithinDocument"
        };
        while !self.events.iter().any(|event| event["method"] == end) {
            let event = self.receive();
            self.events.push(event);
        }
    }

    /// The value of an expression in the page; panics if it throws.
    pub fn value(&mut self, expression: &str) -> Value {
        let ask = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.ask("Runtime.evaluate", &ask);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}\n{answer:#}");
        answer["result"]["value"].clone()
    }

    /// The text of the first element that a selector finds, as it is seen.
    pub fn text(&mut self, selector: &str) -> String {
        let text = self.value(&format!("document.querySelector({}).innerText", json!(selector)));
        text.as_str().expect("innerText is a text").to_string()
    }

    /// The texts of all elements that a selector finds.
    pub fn texts(&mut self, selector: &str) -> Vec<String> {
        let texts = self
            .value(&format!("[...document.querySelectorAll({})].map((e) => e.innerText)", json!(selector)));
        let texts = texts.as_array().expect("a list").iter();
        texts.map(|text| text.as_str().unwrap_or_default().to_string()).collect()
    }

    /// Clicks, with the mouse, on the first element that a selector finds and whose text contains this.
    pub fn click(&mut self, selector: &str, text: &str) {
        let place = self.value(&format!(
            "(() => {{ const found = [...document.querySelectorAll({})].find((e) => e.innerText.includes({})); \
             if (!found) return null; found.scrollIntoView({{block: 'center'}}); const box = found.getBoundingClientRect(); \
             return [box.x + box.width / 2, box.y + box.height / 2]; }})()",
            json!(selector),
            json!(text)
        ));
        assert!(place.is_array(), "nothing to click on: {selector} with {text:?}\n{}", self.evidence());
        for kind in ["mousePressed", "mouseReleased"] {
            let event =
                json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
            self.ask("Input.dispatchMouseEvent", &event);
        }
    }

    /// Types a text where the cursor is, in place of what is there.
    pub fn type_over(&mut self, text: &str) {
        self.value("document.activeElement.select()");
        if text.is_empty() {
            for kind in ["keyDown", "keyUp"] {
                let key =
                    json!({"type": kind, "key": "Delete", "code": "Delete", "windowsVirtualKeyCode": 46});
                self.ask("Input.dispatchKeyEvent", &key);
            }
        } else {
            self.ask("Input.insertText", &json!({ "text": text }));
        }
    }

    /// What the page complained about since it was opened: exceptions, errors on the console, what was forbidden.
    pub fn complaints(&mut self) -> Vec<String> {
        // All events that belong to what was done so far come before this answer.
        self.value("0");
        let is_complaint = |event: &&Value| match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => {
                ["error", "warning", "assert"].iter().any(|kind| event["params"]["type"] == *kind)
            }
            Some("Log.entryAdded") => event["params"]["entry"]["level"] != "verbose",
            _ => false,
        };
        self.events.iter().filter(is_complaint).map(|event| event["params"].to_string()).collect()
    }

    /// The addresses that the page asked for since it was opened, its own first.
    pub fn requests(&mut self) -> Vec<String> {
        self.value("0");
        let asked = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        asked
            .map(|event| event["params"]["request"]["url"].as_str().unwrap_or_default().to_string())
            .collect()
    }

    /// Whether the page has opened a dialog, as `alert` does.
    pub fn has_dialog(&self) -> bool {
        self.events.iter().any(|event| event["method"] == "Page.javascriptDialogOpening")
    }

    /// Everything that can be seen.
    pub fn evidence(&mut self) -> String {
        let (text, complaints) = (self.text("body"), self.complaints());
        format!("--- page\n{text}\n--- complaints\n{complaints:#?}")
    }

    fn ask(&mut self, method: &str, parameters: &Value) -> Value {
        self.last_id += 1;
        let mut message = json!({"id": self.last_id, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).unwrap_or_else(|error| panic!("{method}: the browser is gone: {error}"));
        loop {
            let answer = self.receive();
            if answer["id"] != self.last_id {
                self.events.push(answer);
                continue;
            }
            assert!(answer.get("error").is_none(), "{method} {parameters}\n{answer:#}");
            return answer["result"].clone();
        }
    }

    fn receive(&self) -> Value {
        let message = self.from.recv_timeout(DEADLINE);
        message.unwrap_or_else(|error| panic!("the browser says nothing: {error}\n{:#?}", self.events))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself. Its own children end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The objects that come, read by a thread.
fn follow(mut pipe: impl BufRead + Send + 'static) -> Receiver<Value> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        while pipe.read_until(0, &mut bytes).is_ok_and(|length| length > 0) {
            bytes.pop();
            let Ok(message) = serde_json::from_slice(&bytes) else { break };
            bytes.clear();
            if sender.send(message).is_err() {
                break;
            }
        }
    });
    receiver
}

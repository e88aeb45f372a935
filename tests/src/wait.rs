//! Waiting for what cannot tell by itself that it has come.

use std::thread;
use std::time::{Duration, Instant};

/// After this long it does not come.
const DEADLINE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits until it holds; panics with what is there instead if that does not come.
pub fn wait_until(what: &str, evidence: impl Fn() -> String, holds: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "{what}\n{}", evidence());
        thread::sleep(LOOK_EVERY);
    }
}

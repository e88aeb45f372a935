//! Programs that run and are waited for, with all they say kept as evidence.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys;

pub use libc::{SIGCONT, SIGINT, SIGSTOP, SIGTERM, SIGUSR1};

/// After this long, something hangs.
const DEADLINE: Duration = Duration::from_secs(120);
/// How long a pipe may stay open after its process has ended, because a descendant of it still runs.
const PIPE_DEADLINE: Duration = Duration::from_secs(5);

/// What a program that has ended left behind.
pub struct Output {
    /// The command line, for evidence.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// CPU time, user and system, with that of its descendants that it waited for.
    pub cpu: Duration,
    /// The most memory that it or one of them had at a time, in bytes; at least what we had when it was started.
    pub peak_memory: u64,
}

impl Output {
    /// Panics with the evidence unless the exit code is this one.
    pub fn assert_code(&self, expected: i32) -> &Self {
        assert_eq!(self.status.code(), Some(expected), "expected exit code {expected}\n{self}");
        self
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, status, stdout, stderr, cpu: _, peak_memory: _ } = self;
        write!(f, "command: {command}\n{status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n---")
    }
}

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Output {
    Running::start(command).finish()
}

/// Runs a program to its end; panics with the evidence unless it succeeds.
pub fn must(command: &mut Command) -> Output {
    let output = run(command);
    output.assert_code(0);
    output
}

/// A program that runs. Dropped, it is killed, and its process group too if it was started as the leader of one.
pub struct Running {
    child: Option<Child>,
    pid: u32,
    command: String,
    stdout: Arc<Stream>,
    stderr: Arc<Stream>,
}

impl Running {
    /// Starts a program, with no standard input.
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let text = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {text}: {error}"));
        let stdout = Stream::follow(child.stdout.take().expect("standard output is a pipe"));
        let stderr = Stream::follow(child.stderr.take().expect("standard error is a pipe"));
        Self { pid: child.id(), child: Some(child), command: text, stdout, stderr }
    }

    /// Its process id.
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for a line on standard output that fits, and gives it.
    pub fn wait_for_stdout(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        self.wait_for(&self.stdout, what, fits)
    }

    /// Waits for a line on standard error that fits, and gives it.
    pub fn wait_for_stderr(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        self.wait_for(&self.stderr, what, fits)
    }

    /// Whether it has ended. It is still to be waited for.
    pub fn has_ended(&self) -> bool {
        sys::has_ended(self.pid)
    }

    /// The last line on standard error so far that fits.
    pub fn last_stderr(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let last = self.stderr.lock().lines.iter().rev().find(|line| fits(line)).cloned();
        last.unwrap_or_else(|| panic!("expected: {what}\n{}", self.evidence()))
    }

    /// How many lines there are on standard error so far.
    pub fn stderr_lines(&self) -> usize {
        self.stderr.lock().lines.len()
    }

    /// Waits until standard error has more than this many lines.
    pub fn wait_for_more_stderr(&self, lines: usize) {
        let more = self.stderr.wait(DEADLINE, |state| (state.lines.len() > lines).then_some(()));
        assert!(more.is_some(), "no more lines on standard error\n{}", self.evidence());
    }

    /// How many lines there are on standard output so far.
    pub fn stdout_lines(&self) -> usize {
        self.stdout.lock().lines.len()
    }

    /// Waits until standard output has more than this many lines.
    pub fn wait_for_more_stdout(&self, lines: usize) {
        let more = self.stdout.wait(DEADLINE, |state| (state.lines.len() > lines).then_some(()));
        assert!(more.is_some(), "no more lines on standard output\n{}", self.evidence());
    }

    /// Whether some line on standard error so far fits.
    pub fn any_stderr(&self, fits: impl Fn(&str) -> bool) -> bool {
        self.stderr.lock().lines.iter().any(|line| fits(line))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        sys::signal(self.pid, signal);
    }

    /// Waits for its end; kills it and panics if that does not come.
    pub fn finish(self) -> Output {
        self.finish_within(DEADLINE)
    }

    /// The same for a program that has much to do.
    pub fn finish_within(mut self, deadline: Duration) -> Output {
        let child = self.child.take().expect("a running program has not been waited for");
        let (sender, receiver) = mpsc::channel();
        let pid = self.pid;
        thread::spawn(move || sender.send(sys::wait(pid)));
        let Ok((status, cpu, peak_memory)) = receiver.recv_timeout(deadline) else {
            sys::signal(pid, libc::SIGKILL);
            panic!("did not end\n{}", self.evidence());
        };
        drop(child);
        for stream in [&self.stdout, &self.stderr] {
            stream.wait(PIPE_DEADLINE, |state| state.closed.then_some(()));
        }
        let (stdout, stderr) = (self.stdout.text(), self.stderr.text());
        Output { command: std::mem::take(&mut self.command), status, stdout, stderr, cpu, peak_memory }
    }

    fn wait_for(&self, stream: &Stream, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let found = stream.wait(DEADLINE, |state| state.lines.iter().find(|line| fits(line)).cloned());
        found.unwrap_or_else(|| panic!("expected: {what}\n{}", self.evidence()))
    }

    fn evidence(&self) -> String {
        let Self { command, stdout, stderr, .. } = self;
        format!("command: {command}\n--- stdout\n{}\n--- stderr\n{}\n---", stdout.text(), stderr.text())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            sys::kill_group(self.pid);
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The lines of a pipe, read by a thread as they come.
#[derive(Default)]
struct Stream {
    state: Mutex<StreamState>,
    changed: Condvar,
}

#[derive(Default)]
struct StreamState {
    lines: Vec<String>,
    closed: bool,
}

impl Stream {
    fn follow(pipe: impl Read + Send + 'static) -> Arc<Self> {
        let stream = Arc::new(Self::default());
        let writer = Arc::clone(&stream);
        thread::spawn(move || writer.fill(pipe));
        stream
    }

    fn fill(&self, pipe: impl Read) {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_string();
            line.clear();
            self.lock().lines.push(text);
            self.changed.notify_all();
        }
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits until `wanted` gives something; nothing at the deadline, or when no more can come.
    fn wait<T>(&self, deadline: Duration, wanted: impl Fn(&StreamState) -> Option<T>) -> Option<T> {
        let end = Instant::now() + deadline;
        let mut state = self.lock();
        loop {
            if let Some(found) = wanted(&state) {
                return Some(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                return None;
            }
            state = self.changed.wait_timeout(state, left).expect("a reader thread panicked").0;
        }
    }

    fn text(&self) -> String {
        self.lock().lines.iter().flat_map(|line| [line, "\n"]).collect()
    }

    fn lock(&self) -> MutexGuard<'_, StreamState> {
        self.state.lock().expect("a reader thread panicked")
    }
}

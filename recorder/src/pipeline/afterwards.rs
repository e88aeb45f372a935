//! The command that is run for each file when it is done (`-z`): beside the recording, at low priority, with the rights of the
//! user who called us.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Child;
use std::thread::{self, available_parallelism};
use std::time::Duration;

use super::{Invoker, Observer, Signals, command, describe};

/// How often it is looked whether the last ones have ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What is to be done with files that are done.
pub(super) struct Afterwards<'a> {
    /// The program; none if nothing is to be done.
    program: Option<&'a OsString>,
    invoker: Option<&'a Invoker>,
    running: Vec<(PathBuf, Child)>,
    /// Files for which it has not been started: only so many run at a time.
    waiting: VecDeque<PathBuf>,
    most_at_once: usize,
    /// How often something went wrong.
    failures: u64,
}

impl<'a> Afterwards<'a> {
    pub(super) fn new(program: Option<&'a OsString>, invoker: Option<&'a Invoker>) -> Self {
        Self {
            program,
            invoker,
            running: Vec::new(),
            waiting: VecDeque::new(),
            most_at_once: available_parallelism().map_or(1, usize::from),
            failures: 0,
        }
    }

    /// A file is done.
    pub(super) fn add(&mut self, file: PathBuf) {
        if self.program.is_some() {
            self.waiting.push_back(file);
        }
    }

    /// Takes leave of those that have ended, and starts the next ones.
    pub(super) fn look(&mut self, observer: &mut dyn Observer) {
        self.reap(observer);
        while self.running.len() < self.most_at_once
            && let Some(file) = self.waiting.pop_front()
        {
            self.start(file, observer);
        }
    }

    /// Waits until all have been run and have ended, or a signal comes; then those that run are left alone. How often something
    /// went wrong.
    pub(super) fn finish(mut self, signals: &Signals, observer: &mut dyn Observer) -> u64 {
        let asked = signals.take_stop();
        self.look(observer);
        if !self.running.is_empty() && asked.is_some() {
            observer.note("waiting for the command that -z names; another signal ends the waiting");
        }
        while !self.running.is_empty() {
            if signals.take_stop().is_some() {
                let left = self.running.len() + self.waiting.len();
                observer.problem(&format!(
                    "not waiting for the command that -z names: {left} files are left to it"
                ));
                return self.failures + 1;
            }
            thread::sleep(LOOK_EVERY);
            self.look(observer);
        }
        self.failures
    }

    fn start(&mut self, file: PathBuf, observer: &mut dyn Observer) {
        let Some(program) = self.program else { return };
        match command::start_aside(program, &file, self.invoker) {
            Ok(child) => self.running.push((file, child)),
            Err(error) => {
                self.failures += 1;
                let (program, file) = (program.to_string_lossy(), file.display());
                observer.problem(&format!("cannot run {program} for {file}: {error}"));
            }
        }
    }

    fn reap(&mut self, observer: &mut dyn Observer) {
        let program = self.program.map(|program| program.to_string_lossy()).unwrap_or_default();
        let failures = &mut self.failures;
        self.running.retain_mut(|(file, child)| {
            let how = match child.try_wait() {
                Ok(None) => return true,
                Ok(Some(status)) if status.success() => return false,
                Ok(Some(status)) => describe(status),
                Err(error) => error.to_string(),
            };
            *failures += 1;
            observer.problem(&format!("{program} {}: {how}", file.display()));
            false
        });
    }
}

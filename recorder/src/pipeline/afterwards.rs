//! The command that is run for each file when it is done (`-z`): beside the recording, at low priority, with the rights of the
//! user who called us.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::{self, available_parallelism};
use std::time::Duration;

use super::starter::{Answer, Starter};
use super::{Observer, Plan, Signals, command, describe};

/// How often it is looked whether the last ones have ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What is to be done with files that are done.
pub(super) struct Afterwards {
    /// What starts the program; none if nothing is to be done.
    starter: Option<Starter>,
    /// The name of the program.
    program: String,
    /// The files for which it runs, each with its number.
    running: Vec<(u32, PathBuf)>,
    /// Files for which it has not been started: only so many run at a time.
    waiting: VecDeque<PathBuf>,
    most_at_once: usize,
    /// How often something went wrong.
    failures: u64,
}

impl Afterwards {
    /// Forks the process that starts the program, if there is one.
    pub(super) fn prepare(plan: &Plan) -> io::Result<Self> {
        let invoker = plan.invoker.as_ref();
        let starter = |program: &OsString| {
            let start = |file: &Path| command::start_aside(program, file);
            Starter::fork(|| command::settle(invoker), start)
        };
        let program = plan.after_file.as_ref();
        Ok(Self {
            starter: program.map(starter).transpose()?,
            program: program.map(|program| program.to_string_lossy().into_owned()).unwrap_or_default(),
            running: Vec::new(),
            waiting: VecDeque::new(),
            most_at_once: available_parallelism().map_or(1, usize::from),
            failures: 0,
        })
    }

    /// A file is done.
    pub(super) fn add(&mut self, file: PathBuf) {
        if self.starter.is_some() {
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
        let Some(starter) = &mut self.starter else { return };
        match starter.start(&file) {
            Ok(number) => self.running.push((number, file)),
            Err(error) => self.not_started(&file, &error, observer),
        }
    }

    fn not_started(&mut self, file: &Path, error: &io::Error, observer: &mut dyn Observer) {
        self.failures += 1;
        observer.problem(&format!("cannot run {} for {}: {error}", self.program, file.display()));
    }

    fn reap(&mut self, observer: &mut dyn Observer) {
        while let Some(answer) = self.starter.as_mut().map(Starter::answer) {
            match answer {
                Ok(None) => return,
                Ok(Some(Answer::Started)) => {}
                Ok(Some(Answer::NotStarted(number, error))) => {
                    if let Some(file) = self.ended(number) {
                        self.not_started(&file, &error, observer);
                    }
                }
                Ok(Some(Answer::Ended(number, status))) => {
                    if let Some(file) = self.ended(number).filter(|_| !status.success()) {
                        self.failures += 1;
                        observer.problem(&format!(
                            "{} {}: {}",
                            self.program,
                            file.display(),
                            describe(status)
                        ));
                    }
                }
                Err(error) => self.give_up(&error, observer),
            }
        }
    }

    /// The file for which the program of this number ran.
    fn ended(&mut self, number: u32) -> Option<PathBuf> {
        let at = self.running.iter().position(|(other, _)| *other == number)?;
        Some(self.running.swap_remove(at).1)
    }

    /// Nobody starts programs any more.
    fn give_up(&mut self, error: &io::Error, observer: &mut dyn Observer) {
        self.starter = None;
        let left: Vec<_> =
            self.running.drain(..).map(|(_, file)| file).chain(self.waiting.drain(..)).collect();
        left.iter().for_each(|file| self.not_started(file, error, observer));
    }
}

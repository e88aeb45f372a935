//! A helper that starts programs: the recorded command, or the program for each file that is done. Which program, it knows from
//! the beginning; all that it can be told is the path of a file, and a signal to pass on.

use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;
#[cfg(target_os = "linux")]
use std::time::Instant;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::command;
use super::helper::{Helper, wait_for};

/// How often it looks whether a program has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a program may take to be started.
#[cfg(target_os = "linux")]
const START_WITHIN: Duration = Duration::from_secs(30);

/// What is asked: a number that stands for it, and how many bytes of a path follow, or the signal.
const START: u32 = 0;
const SIGNAL: u32 = 1;
/// What is answered: a number that stands for it, which program is meant, and the process id, error number or wait status.
const STARTED: i32 = 0;
const NOT_STARTED: i32 = 1;
const ENDED: i32 = 2;
/// Three numbers: less than what a pipe takes or gives in one piece.
const ANSWER_BYTES: usize = 12;

/// What became of a program; programs are numbered from 0 in the order in which they were asked for.
#[derive(Debug)]
pub(super) enum Answer {
    /// It runs.
    Started,
    /// It cannot be started.
    NotStarted(u32, io::Error),
    /// It has ended.
    Ended(u32, ExitStatus),
}

/// The recording's end of a process that starts programs.
#[derive(Debug)]
pub(super) struct Starter {
    helper: Helper,
    asked: u32,
}

impl Starter {
    /// Forks the process; `start` starts the program for a path, which is empty for the recorded command. `settle` is done first.
    pub(super) fn fork(
        settle: impl FnOnce() -> io::Result<()>,
        start: impl Fn(&Path) -> io::Result<Child>,
    ) -> io::Result<Self> {
        let helper = Helper::fork(|requests, answers| {
            // Without an answer the recording ends: what has not settled is not to start anything.
            if settle().is_ok() {
                serve(requests, answers, &start);
            }
        })?;
        let flags = fcntl_getfl(&helper.answers)?;
        fcntl_setfl(&helper.answers, flags | OFlags::NONBLOCK)?;
        Ok(Self { helper, asked: 0 })
    }

    /// Its process id: whatever is started is a child of it.
    #[cfg(target_os = "linux")]
    pub(super) const fn pid(&self) -> u32 {
        self.helper.pid
    }

    /// Asks for the program; gives its number.
    pub(super) fn start(&mut self, file: &Path) -> io::Result<u32> {
        let path = file.as_os_str().as_bytes();
        self.ask(START, path.len() as u32, path)?;
        self.asked += 1;
        Ok(self.asked - 1)
    }

    /// Passes a signal on to all programs that run. That they have ended meanwhile is fine.
    #[cfg(target_os = "linux")]
    pub(super) fn signal(&mut self, signal: i32) -> io::Result<()> {
        self.ask(SIGNAL, signal.unsigned_abs(), &[])
    }

    fn ask(&mut self, what: u32, number: u32, path: &[u8]) -> io::Result<()> {
        self.helper.ask(&[&what.to_ne_bytes()[..], &number.to_ne_bytes(), path].concat())
    }

    /// The next thing that is to be told; none if there is none now.
    ///
    /// # Errors
    /// If the process is gone: how its programs end will not be known.
    pub(super) fn answer(&mut self) -> io::Result<Option<Answer>> {
        let mut answer = [0; ANSWER_BYTES];
        match self.helper.answers.read(&mut answer) {
            Ok(ANSWER_BYTES) => Ok(Some(understood(answer))),
            Ok(_) => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the process beside the recorder that starts programs is gone",
            )),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits for the next thing that is to be told.
    #[cfg(target_os = "linux")]
    pub(super) fn wait(&mut self) -> io::Result<Answer> {
        let started = Instant::now();
        while started.elapsed() < START_WITHIN {
            wait_for(&self.helper.answers, Some(LOOK_EVERY))?;
            if let Some(answer) = self.answer()? {
                return Ok(answer);
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

fn understood(answer: [u8; ANSWER_BYTES]) -> Answer {
    let number = |at: usize| {
        let [a, b, c, d] = [at, at + 1, at + 2, at + 3].map(|at| answer[at]);
        i32::from_ne_bytes([a, b, c, d])
    };
    let (program, value) = (number(4).cast_unsigned(), number(8));
    match number(0) {
        STARTED => Answer::Started,
        NOT_STARTED => Answer::NotStarted(program, io::Error::from_raw_os_error(value)),
        _ => Answer::Ended(program, ExitStatus::from_raw(value)),
    }
}

/// What the process does: starts what it is asked for, and tells how that ends, until nobody asks any more.
fn serve(mut requests: PipeReader, mut answers: PipeWriter, start: &dyn Fn(&Path) -> io::Result<Child>) {
    let mut running: Vec<(u32, Child)> = Vec::new();
    let mut asked = 0;
    loop {
        let at_most = if running.is_empty() { None } else { Some(LOOK_EVERY) };
        let told = match wait_for(&requests, at_most) {
            Ok(true) => match request(&mut requests) {
                Ok(Request::Start(file)) => {
                    asked += 1;
                    tell_start(start(&file), asked - 1, &mut running, &mut answers)
                }
                Ok(Request::Signal(signal)) => {
                    running.iter().for_each(|(_, child)| command::stop(child, signal));
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        // Whatever is wrong with the pipes, nobody is at their other end.
        if told.and_then(|()| tell_ends(&mut running, &mut answers)).is_err() {
            return;
        }
    }
}

enum Request {
    Start(PathBuf),
    Signal(i32),
}

fn request(requests: &mut PipeReader) -> io::Result<Request> {
    let mut number = || {
        let mut number = [0; 4];
        requests.read_exact(&mut number).map(|()| u32::from_ne_bytes(number))
    };
    let (what, value) = (number()?, number()?);
    if what == SIGNAL {
        return Ok(Request::Signal(value.cast_signed()));
    }
    let mut path = Vec::new();
    requests.take(value.into()).read_to_end(&mut path)?;
    Ok(Request::Start(OsString::from_vec(path).into()))
}

fn tell_start(
    started: io::Result<Child>,
    program: u32,
    running: &mut Vec<(u32, Child)>,
    answers: &mut PipeWriter,
) -> io::Result<()> {
    match started {
        Ok(child) => {
            tell(answers, STARTED, program, child.id().cast_signed())?;
            running.push((program, child));
            Ok(())
        }
        // An error without a number is one of the arguments: a NUL in them.
        Err(error) => tell(answers, NOT_STARTED, program, error.raw_os_error().unwrap_or(libc::EINVAL)),
    }
}

/// Tells of those that have ended.
fn tell_ends(running: &mut Vec<(u32, Child)>, answers: &mut PipeWriter) -> io::Result<()> {
    let mut told = Ok(());
    running.retain_mut(|(program, child)| {
        let status = match child.try_wait() {
            Ok(None) => return true,
            Ok(Some(status)) => status.into_raw(),
            // It cannot be waited for: it is gone, nobody knows how.
            Err(_) => -1,
        };
        if told.is_ok() {
            told = tell(answers, ENDED, *program, status);
        }
        false
    });
    told
}

fn tell(answers: &mut PipeWriter, what: i32, program: u32, value: i32) -> io::Result<()> {
    answers.write_all(&[what, program.cast_signed(), value].map(i32::to_ne_bytes).concat())
}

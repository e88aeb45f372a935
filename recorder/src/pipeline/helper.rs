//! Processes beside the recording, which do what it may not do any more once it has restricted itself (`sandbox`). Each is forked before
//! anything is open, knows one thing to do, and ends when the recording does.

use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How long its end is waited for.
const LEAVE_WITHIN: Duration = Duration::from_millis(200);

/// A process beside this one, with a pipe in each direction.
#[derive(Debug)]
pub(super) struct Helper {
    /// Its process id.
    pub(super) pid: u32,
    /// What it is asked; none when it is taken leave of.
    requests: Option<PipeWriter>,
    /// What it answers. Ends when it does.
    pub(super) answers: PipeReader,
}

impl Helper {
    /// Forks a process that does `work` and ends. It ends too when `work` finds that no more requests can come.
    ///
    /// Called while this process has one thread: the others would not be in the new one, whatever they were about to do.
    pub(super) fn fork(work: impl FnOnce(PipeReader, PipeWriter)) -> io::Result<Self> {
        let (requests_end, requests) = io::pipe()?;
        let (answers, answers_end) = io::pipe()?;
        // SAFETY: there is one thread, so no lock is held by a thread that the new process does not have.
        match unsafe { libc::fork() } {
            ..0 => Err(io::Error::last_os_error()),
            0 => {
                drop((requests, answers));
                // Were it to go on from here after a panic, there would be two recordings.
                let ended = catch_unwind(AssertUnwindSafe(|| work(requests_end, answers_end)));
                // SAFETY: ends this process, without what was registered to be done at the end of its parent.
                unsafe { libc::_exit(i32::from(ended.is_err())) }
            }
            pid => Ok(Self { pid: pid.unsigned_abs(), requests: Some(requests), answers }),
        }
    }

    /// Asks it.
    pub(super) fn ask(&mut self, request: &[u8]) -> io::Result<()> {
        self.requests.as_mut().map_or(Err(io::ErrorKind::BrokenPipe.into()), |to| to.write_all(request))
    }
}

impl Drop for Helper {
    /// Takes leave of it: nobody can ask any more, so it ends. What it took counts as ours then (getrusage(2)).
    fn drop(&mut self) {
        self.requests = None;
        // One that is stopped (SIGSTOP) is not waited for.
        if wait_for(&self.answers, Some(LEAVE_WITHIN)).unwrap_or(false) {
            // SAFETY: numbers and null go in; the process is a child that has not been waited for.
            unsafe { libc::waitpid(self.pid.cast_signed(), std::ptr::null_mut(), 0) };
        }
    }
}

/// Waits until something can be read, or the other end is gone; false if a signal came, or the time is up.
pub(super) fn wait_for(from: &impl AsFd, at_most: Option<Duration>) -> io::Result<bool> {
    let at_most = at_most
        .map(|time| Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() });
    match poll(&mut [PollFd::new(from, PollFlags::IN)], at_most.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

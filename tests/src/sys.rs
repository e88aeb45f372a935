//! The system calls that std has no word for, each behind a safe function.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::time::Duration;

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Sends a signal to one process that this one started and has not waited for.
pub(crate) fn signal(pid: u32, signal: i32) {
    // SAFETY: kill takes two numbers; the process is ours and not yet reaped, so the id is still its own.
    let result = unsafe { libc::kill(pid as libc::pid_t, signal) };
    assert_eq!(result, 0, "kill({pid}, {signal}) failed: {}", io::Error::last_os_error());
}

/// Whether a child has ended, without waiting for it.
pub(crate) fn has_ended(pid: u32) -> bool {
    // SAFETY: siginfo_t is plain numbers, for which zero is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the pointer is to a live value of the right type.
    let result = unsafe { libc::waitid(libc::P_PID, pid, &raw mut info, options) };
    assert_eq!(result, 0, "waitid({pid}) failed: {}", io::Error::last_os_error());
    info.si_signo == libc::SIGCHLD
}

/// Waits for a child; also tells the CPU time, user and system, of it and of all descendants that it waited for.
pub(crate) fn wait(pid: u32) -> (ExitStatus, Duration) {
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of the right type.
    let result = unsafe { libc::wait4(pid as libc::pid_t, &raw mut status, 0, &raw mut usage) };
    assert_eq!(result, pid as libc::pid_t, "wait4({pid}) failed: {}", io::Error::last_os_error());
    (ExitStatus::from_raw(status), duration(usage.ru_utime) + duration(usage.ru_stime))
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
}

/// Makes the command run in the network namespace that `namespace` is the file of; nothing else changes for it.
pub(crate) fn enter_before_exec(command: &mut Command, namespace: File) {
    let enter = move || {
        // SAFETY: setns takes two numbers, and the descriptor lives in this closure.
        let result = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec the closure makes one system call and touches no memory that a lock guards.
    unsafe { command.pre_exec(enter) };
}

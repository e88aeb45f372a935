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

/// Kills the process group that a child leads; nothing if it leads none.
pub(crate) fn kill_group(leader: u32) {
    // SAFETY: kill takes two numbers; the child is not yet reaped, so a group with its id can only be its own.
    let _ = unsafe { libc::kill(-(leader as libc::pid_t), libc::SIGKILL) };
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

/// Waits for a child; also tells the CPU time, user and system, of it and of all descendants that it waited for, and the most
/// memory that one of them had, in bytes.
pub(crate) fn wait(pid: u32) -> (ExitStatus, Duration, u64) {
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of the right type.
    let result = unsafe { libc::wait4(pid as libc::pid_t, &raw mut status, 0, &raw mut usage) };
    assert_eq!(result, pid as libc::pid_t, "wait4({pid}) failed: {}", io::Error::last_os_error());
    let peak_memory = usage.ru_maxrss as u64 * 1024;
    (ExitStatus::from_raw(status), duration(usage.ru_utime) + duration(usage.ru_stime), peak_memory)
}

/// What a clock shows.
pub(crate) fn clock(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live value of the right type.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(result, 0, "clock_gettime failed: {}", io::Error::last_os_error());
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Sets CLOCK_REALTIME, of the whole machine.
pub(crate) fn set_real_time(time: Duration) {
    let time = libc::timespec {
        tv_sec: time.as_secs() as libc::time_t,
        tv_nsec: time.subsec_nanos() as libc::c_long,
    };
    // SAFETY: the pointer is to a live value of the right type.
    let result = unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) };
    assert_eq!(result, 0, "clock_settime failed: {}", io::Error::last_os_error());
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

/// Makes the command run where the kernel refuses some system calls with an error, as a container's seccomp profile does.
/// Each is given by its number and, if only one way of calling it is meant, its first argument.
pub(crate) fn refuse_before_exec(command: &mut Command, refused: &[(libc::c_long, Option<u32>)], errno: i32) {
    let program = seccomp_program(refused, errno);
    let install = move || {
        // SAFETY: prctl takes numbers here.
        let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
        // SAFETY: the pointer is to a filter that lives in this closure; the kernel copies it.
        let result =
            unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec the closure makes two system calls and touches no memory that a lock guards.
    unsafe { command.pre_exec(install) };
}

/// A classic BPF program over `struct seccomp_data`: number at 0, low half of the first argument at 16.
fn seccomp_program(refused: &[(libc::c_long, Option<u32>)], errno: i32) -> Vec<libc::sock_filter> {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const JUMP_IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let step = |code: u32, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let refuse = step(RETURN, 0, libc::SECCOMP_RET_ERRNO | errno as u32);
    let mut program = Vec::new();
    for (number, argument) in refused {
        program.push(step(LOAD, 0, 0));
        program.push(step(JUMP_IF_EQUAL, if argument.is_some() { 3 } else { 1 }, *number as u32));
        if let Some(argument) = argument {
            program.push(step(LOAD, 0, 16));
            program.push(step(JUMP_IF_EQUAL, 1, *argument));
        }
        program.push(refuse);
    }
    program.push(step(RETURN, 0, libc::SECCOMP_RET_ALLOW));
    program
}

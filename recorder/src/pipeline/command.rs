//! Commands that are started: the recorded one, with its standard streams as they are, and the one for a file that is done. Both run
//! with the rights of the user who called us, which the process that starts them (`starter`) has taken.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

/// The user who called sudo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invoker {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
}

impl Invoker {
    /// Reads what sudo(8) leaves in the environment; none where root runs us without it.
    pub fn from_sudo() -> Option<Self> {
        let number = |name| std::env::var(name).ok()?.parse().ok();
        // SAFETY: the call has no preconditions and cannot fail.
        let effective_uid = unsafe { libc::geteuid() };
        if effective_uid != 0 {
            return None;
        }
        let (uid, gid) = (number("SUDO_UID")?, number("SUDO_GID")?);
        let name = CString::new(std::env::var("SUDO_USER").ok()?).ok()?;
        Some(Self { uid, gid, groups: groups(&name, gid) })
    }
}

/// What getgrouplist(3) calls a group.
#[cfg(target_os = "macos")]
type Group = libc::c_int;
#[cfg(not(target_os = "macos"))]
type Group = libc::gid_t;

/// The groups of a user, as the group database has them.
fn groups(name: &CString, gid: u32) -> Vec<u32> {
    let mut groups: Vec<Group> = vec![0; 64];
    loop {
        let mut count = groups.len() as libc::c_int;
        // SAFETY: the name is a C string, and `count` is the room that there is in `groups`.
        let result =
            unsafe { libc::getgrouplist(name.as_ptr(), gid as Group, groups.as_mut_ptr(), &raw mut count) };
        let count = usize::try_from(count).unwrap_or(0);
        if result >= 0 || count <= groups.len() {
            groups.truncate(count);
            return groups.into_iter().map(|group| u32::from_ne_bytes(group.to_ne_bytes())).collect();
        }
        groups.resize(count, 0);
    }
}

/// Starts the command.
#[cfg(target_os = "linux")]
pub(super) fn start(command: &[std::ffi::OsString]) -> io::Result<Child> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no command is given"));
    };
    Command::new(program).args(arguments).spawn()
}

/// Starts the program for a file that is done: at the lowest priority, without standard input, in a process group of its own, so
/// that Ctrl-C ends the recording and not this.
pub(super) fn start_aside(program: &OsStr, file: &Path) -> io::Result<Child> {
    /// The nicest there is.
    const LOWEST: libc::c_int = 19;
    let mut starting = Command::new(program);
    starting.arg(file).stdin(Stdio::null()).process_group(0);
    let step_aside = || {
        // SAFETY: the arguments are integers; 0 is this process.
        check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LOWEST) })
    };
    // SAFETY: the closure runs between fork and exec, and makes system calls only.
    unsafe { starting.pre_exec(step_aside) };
    starting.spawn()
}

/// What a process does before it starts programs for us: it becomes the user who called sudo, and gives up what it has of
/// capabilities. What a program that root runs may do comes from root.
pub(super) fn settle(invoker: Option<&Invoker>) -> io::Result<()> {
    change_user(invoker)?;
    #[cfg(target_os = "linux")]
    crate::sandbox::give_up_capabilities()?;
    Ok(())
}

/// Becomes the user who called sudo, or who called us: not with what a set-user-id bit or capabilities give to this program. Those of
/// its file do not outlive exec(2) anyway.
fn change_user(invoker: Option<&Invoker>) -> io::Result<()> {
    // SAFETY: the call has no preconditions and cannot fail.
    let real_uid = unsafe { libc::getuid() };
    // SAFETY: the call has no preconditions and cannot fail.
    let real_gid = unsafe { libc::getgid() };
    let (uid, gid) = invoker.map_or((real_uid, real_gid), |invoker| (invoker.uid, invoker.gid));
    if let Some(Invoker { groups, .. }) = invoker {
        // SAFETY: the pointer and the length are those of a list of group ids.
        check(unsafe { libc::setgroups(groups.len() as _, groups.as_ptr()) })?;
    }
    // SAFETY: the argument is an integer.
    check(unsafe { libc::setgid(gid) })?;
    // SAFETY: the argument is an integer.
    check(unsafe { libc::setuid(uid) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Passes a signal on to a program. That it has ended meanwhile is fine.
pub(super) fn stop(child: &Child, signal: i32) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // SAFETY: the arguments are integers; the child has not been waited for, so the pid is still its own.
        unsafe { libc::kill(pid, signal) };
    }
}

/// How the command ended, in words.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown end".to_owned(),
    }
}

//! The recorded command: started as the user who called sudo, with its standard streams as they are.

use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};

/// The user who called sudo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invoker {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// The name, for the supplementary groups.
    pub name: String,
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
        Some(Self {
            uid: number("SUDO_UID")?,
            gid: number("SUDO_GID")?,
            name: std::env::var("SUDO_USER").ok()?,
        })
    }
}

/// Starts the command.
pub(super) fn start(command: &[OsString], invoker: Option<&Invoker>) -> io::Result<Child> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no command is given"));
    };
    let mut starting = Command::new(program);
    starting.args(arguments);
    if let Some(Invoker { uid, gid, name }) = invoker.cloned() {
        let name = CString::new(name)?;
        let become_invoker = move || {
            // SAFETY: the name is a C string; initgroups reads the group database, which is allowed here because this
            // process has one thread only when it forks.
            check(unsafe { libc::initgroups(name.as_ptr(), gid) })?;
            // SAFETY: the argument is an integer.
            check(unsafe { libc::setgid(gid) })?;
            // SAFETY: the argument is an integer.
            check(unsafe { libc::setuid(uid) })
        };
        // SAFETY: the closure runs between fork and exec; it allocates at most in initgroups, see there.
        unsafe { starting.pre_exec(become_invoker) };
    }
    starting.spawn()
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Passes a request to stop on to the command. That it has ended meanwhile is fine.
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

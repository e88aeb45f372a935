//! What this process may still do once all that it needs is open: as little as its work allows.
//!
//! Three layers of the kernel, each of which holds where another is missing: no capability; Landlock, which files may be
//! opened (`files`); seccomp, which system calls may be made (`calls`). All three belong to a thread and are inherited by the
//! threads that it starts, so they are entered while there is one thread; `docs/SECURITY.md` tells what that leaves.
//!
//! Capabilities that the binary got from its file (setcap(8)) are used for recording, and for nothing else. They let every user who
//! may run it see what others send. They must not let that user read what others have stored: CAP_DAC_READ_SEARCH, which
//! is there to list /proc/PID/fd, opens every file.

mod calls;
mod files;
mod identity;

use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::thread;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, no_new_privs, set_capabilities, set_no_new_privs,
};

pub use identity::User;

/// Whether to restrict this process, and what to do where the kernel does not do all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// As far as the kernel can; what it cannot is told.
    #[default]
    Auto,
    /// Entirely, or not go on.
    Strict,
    /// Not at all.
    Off,
}

/// What a process or a thread does: which system calls it makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The loop of a recording: reads mapped rings, counters and netlink, writes files.
    Record,
    /// The same, and looks into /proc and into other network namespaces.
    RecordAndLook,
    /// A thread that compresses: memory in, memory out.
    Compress,
    /// A process that asks the kernel's connection tracking.
    Translate,
    /// A command that reads files.
    Read,
}

/// What a process needs from now on. All else is denied.
#[derive(Clone, Debug)]
pub struct Needs {
    /// What it does.
    pub role: Role,
    /// Files and folders that are read. One that is not there is left out.
    pub read: Vec<PathBuf>,
    /// Folders in which files are created, written and removed.
    pub write_in: Vec<PathBuf>,
    /// Packet sockets, which may be read and never written to.
    pub packet_sockets: Vec<RawFd>,
    /// The capabilities that its work needs, with the reason.
    pub keeps: Option<(CapabilitySet, &'static str)>,
    /// The user who called sudo; root becomes that user.
    pub invoker: Option<User>,
}

impl Needs {
    /// Nothing besides what every process of this role does.
    pub const fn of(role: Role) -> Self {
        Self {
            role,
            read: Vec::new(),
            write_in: Vec::new(),
            packet_sockets: Vec::new(),
            keeps: None,
            invoker: None,
        }
    }
}

/// CAP_NET_ADMIN: what connection tracking wants of who asks it.
pub const ASKS_TRACKING: (CapabilitySet, &str) =
    (CapabilitySet::NET_ADMIN, "connection tracking answers nobody else");

/// What a look into the descriptors and network namespaces of all processes takes.
pub const LOOKS: (CapabilitySet, &str) = (
    CapabilitySet::SYS_PTRACE.union(CapabilitySet::DAC_READ_SEARCH).union(CapabilitySet::SYS_ADMIN),
    "/proc shows the sockets of other users to nobody else",
);

/// One of the things that hold a process back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// No capability in any set.
    Capabilities,
    /// No program that it starts could have more rights.
    NoNewPrivileges,
    /// Files and TCP, by Landlock.
    Landlock,
    /// System calls, by seccomp.
    Seccomp,
}

impl Layer {
    /// All of them, in the order in which they are entered.
    pub const ALL: [Self; 4] = [Self::Capabilities, Self::NoNewPrivileges, Self::Landlock, Self::Seccomp];

    /// What it is called on the screen and in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Capabilities => "no capabilities",
            Self::NoNewPrivileges => "no_new_privs",
            Self::Landlock => "Landlock",
            Self::Seccomp => "seccomp",
        }
    }

    /// What to do where it is missing.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Capabilities => {
                "record with eBPF, and write to a folder that the user who called sudo, or root, may write to"
            }
            Self::NoNewPrivileges | Self::Seccomp => {
                "use a kernel with CONFIG_SECCOMP_FILTER=y, and a container whose own profile allows prctl(2) and seccomp(2)"
            }
            Self::Landlock => {
                "use Linux 6.7 or newer with landlock in CONFIG_LSM or on the kernel command line (lsm=), and a container whose \
                 profile allows landlock_create_ruleset(2); and record with eBPF"
            }
        }
    }
}

/// What holds this process back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    is_off: bool,
    missing: Vec<(Layer, String)>,
}

impl Status {
    /// Nothing, because that was asked for.
    pub const fn off() -> Self {
        Self { is_off: true, missing: Vec::new() }
    }

    /// Whether the process is restricted at all.
    pub const fn is_off(&self) -> bool {
        self.is_off
    }

    /// What is not as it should be, and why.
    pub fn missing(&self) -> &[(Layer, String)] {
        &self.missing
    }

    /// What holds.
    pub fn holding(&self) -> impl Iterator<Item = Layer> {
        let is_missing = |layer: Layer| self.missing.iter().any(|(missing, _)| *missing == layer);
        Layer::ALL.into_iter().filter(move |layer| !self.is_off && !is_missing(*layer))
    }

    /// What holds all of this process back, of which one part is held back like this, and another like that.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        let new = |(layer, _): &(Layer, String)| !self.missing.iter().any(|(known, _)| known == layer);
        let new: Vec<_> = other.missing.into_iter().filter(new).collect();
        self.missing.extend(new);
        self
    }

    fn note(&mut self, layer: Layer, result: Result<(), String>) {
        if let Err(why) = result {
            self.missing.push((layer, why));
        }
    }
}

impl fmt::Display for Status {
    /// `no capabilities, no_new_privs, seccomp; without Landlock: this kernel has none (Linux 5.13)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_off {
            return f.write_str("off, as asked for");
        }
        let holding: Vec<_> = self.holding().map(Layer::name).collect();
        f.write_str(&if holding.is_empty() { "none".to_owned() } else { holding.join(", ") })?;
        self.missing.iter().try_for_each(|(layer, why)| write!(f, "; not {}: {why}", layer.name()))
    }
}

/// Has a restricted thread do this: threads that it starts are restricted like it.
pub fn apart(needs: &Needs, work: impl FnOnce() + Send) -> Status {
    let restricted = || {
        let status = restrict(needs);
        work();
        status
    };
    thread::scope(|scope| scope.spawn(restricted).join()).unwrap_or_else(|_| {
        let missing = Layer::ALL.map(|layer| (layer, "the thread that tried has died".to_owned()));
        Status { is_off: false, missing: missing.into() }
    })
}

/// What would hold here, tried by a thread that ends with it.
pub fn probe(needs: &Needs) -> Status {
    apart(needs, || {})
}

/// Gives up everything that is not needed, for good: in the calling thread, and in those that it starts from now on. So it is called
/// while there is one.
pub fn restrict(needs: &Needs) -> Status {
    let mut status = Status::default();
    status.note(Layer::Capabilities, identity::become_less(needs));
    // Whoever started us may have done it.
    let held = if no_new_privs() == Ok(true) { Ok(()) } else { set_no_new_privs(true) };
    status.note(Layer::NoNewPrivileges, held.map_err(|error| io::Error::from(error).to_string()));
    status.note(Layer::Landlock, files::restrict(needs));
    status.note(Layer::Seccomp, calls::restrict(needs));
    status
}

/// Gives up all capabilities, for good: for commands that only read what their user may read.
///
/// # Errors
/// If the kernel refuses, which it does not: less is always allowed.
pub fn give_up_capabilities() -> io::Result<()> {
    let none = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}

/// Lets no program that is started later inherit a capability, and puts CAP_DAC_READ_SEARCH aside: it opens no file until
/// it is taken up again, as the look at /proc does (`attribution/linux/procfs`). Threads that are started later begin in
/// the same way.
///
/// # Errors
/// If the kernel refuses, which it does not: less is always allowed.
pub fn keep_for_recording() -> io::Result<()> {
    let mut sets = capabilities(None)?;
    sets.effective.remove(CapabilitySet::DAC_READ_SEARCH);
    // A service may have ambient capabilities (systemd.exec(5)); they go with the inheritable ones (capabilities(7)).
    sets.inheritable = CapabilitySet::empty();
    Ok(set_capabilities(None, sets)?)
}

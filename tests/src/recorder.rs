//! The recorder, as a user runs it.

use std::path::PathBuf;
use std::process::Command;

use crate::namespace::Namespace;
use crate::process::{Output, Running, must};
use crate::sys;

/// What the recorder says on standard error when it is ready begins with this.
pub const READY: &str = "recording on ";

/// The binary: the one that the environment variable RECORDER names, or the one beside the running program.
pub fn binary() -> String {
    let named = std::env::var_os("RECORDER").map(PathBuf::from);
    let path = named.or_else(beside_this_program);
    let path =
        path.unwrap_or_else(|| panic!("there is no recorder binary: run `cargo build`, or set RECORDER"));
    path.to_str().expect("our paths are UTF-8").to_string()
}

fn beside_this_program() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    // Tests are in target/PROFILE/deps, programs in target/PROFILE.
    own.ancestors().skip(1).take(2).map(|folder| folder.join("recorder")).find(|path| path.is_file())
}

/// `recorder record ARGUMENTS` in a namespace.
pub fn record(namespace: &Namespace, arguments: &[&str]) -> Command {
    let mut command = namespace.command(binary());
    command.arg("record").args(arguments);
    command
}

/// A way in which a machine refuses eBPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Root without CAP_SYS_ADMIN, CAP_BPF and CAP_PERFMON.
    Capability,
    /// The same, and without CAP_SYS_PTRACE.
    CapabilityAndSight,
    /// A kernel without type information.
    Btf,
    /// A kernel that takes no program, as when its verifier finds fault with each.
    Programs,
    /// A container's seccomp profile, which says that it is not permitted.
    SeccompPermission,
    /// A container's seccomp profile, which says that there is no such call.
    SeccompMissing,
    /// No cgroup2 tree, and none to be had.
    Cgroup,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Capability,
        Self::CapabilityAndSight,
        Self::Btf,
        Self::Programs,
        Self::SeccompPermission,
        Self::SeccompMissing,
        Self::Cgroup,
    ];

    /// `recorder ARGUMENTS` in a namespace, where eBPF is refused in this way.
    pub fn recorder(self, namespace: &Namespace, arguments: &[&str]) -> Command {
        // BPF_PROG_LOAD of include/uapi/linux/bpf.h.
        const PROG_LOAD: u32 = 5;
        // Capabilities by number: setpriv may be older than their names.
        let without =
            |capabilities: &str| vec!["setpriv".to_owned(), format!("--bounding-set={capabilities}")];
        let after = |script: &str| {
            let script = format!("{script}; exec \"$0\" \"$@\"");
            ["unshare", "--mount", "sh", "-e", "-c", &script].map(str::to_owned).to_vec()
        };
        let wrapper = match self {
            Self::Capability => without("-cap_21,-cap_38,-cap_39"),
            Self::CapabilityAndSight => without("-cap_19,-cap_21,-cap_38,-cap_39"),
            Self::Btf => after("mount --bind /dev/null /sys/kernel/btf/vmlinux"),
            Self::Cgroup => after(
                "awk '{ for (i = 7; i <= NF; i++) if ($i == \"-\" && $(i + 1) == \"cgroup2\") print $5 }' /proc/self/mountinfo \
                 | while read -r tree; do umount -l \"$tree\"; done",
            ),
            Self::Programs | Self::SeccompPermission | Self::SeccompMissing => Vec::new(),
        };
        let mut all: Vec<String> = wrapper;
        all.push(binary());
        let mut command = namespace.command(&all[0]);
        command.args(&all[1..]).args(arguments);
        let bpf = libc::SYS_bpf;
        match self {
            Self::Programs => sys::refuse_before_exec(&mut command, &[(bpf, Some(PROG_LOAD))], libc::EINVAL),
            Self::SeccompPermission => sys::refuse_before_exec(&mut command, &[(bpf, None)], libc::EPERM),
            Self::SeccompMissing => sys::refuse_before_exec(&mut command, &[(bpf, None)], libc::ENOSYS),
            Self::Cgroup => {
                sys::refuse_before_exec(&mut command, &[(libc::SYS_fsopen, None)], libc::EPERM);
            }
            Self::Capability | Self::CapabilityAndSight | Self::Btf => {}
        }
        command
    }
}

/// `recorder ARGUMENTS` in a namespace, where the kernel refuses one system call with an error.
pub fn refused_call(namespace: &Namespace, arguments: &[&str], call: libc::c_long, error: i32) -> Command {
    let mut command = namespace.command(binary());
    command.args(arguments);
    sys::refuse_before_exec(&mut command, &[(call, None)], error);
    command
}

/// `recorder ARGUMENTS`, which must succeed; gives its standard output.
pub fn ask(arguments: &[&str]) -> String {
    must(Command::new(binary()).args(arguments)).stdout
}

/// A recording in progress.
pub struct Recording {
    running: Running,
}

impl Recording {
    /// Starts the command, and waits until it records.
    pub fn start(command: &mut Command) -> Self {
        let running = Running::start(command);
        running
            .wait_for_stderr(&format!("a line that starts with '{READY}'"), |line| line.starts_with(READY));
        Self { running }
    }

    /// The process.
    pub const fn running(&self) -> &Running {
        &self.running
    }

    /// Ends it with SIGINT, as Ctrl-C does.
    pub fn stop(self) -> Output {
        self.stop_with(libc::SIGINT)
    }

    /// Ends it with a signal.
    pub fn stop_with(self, signal: i32) -> Output {
        self.running.signal(signal);
        self.running.finish()
    }

    /// Waits until it ends by itself.
    pub fn finish(self) -> Output {
        self.running.finish()
    }
}

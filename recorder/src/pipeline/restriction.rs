//! What a recording needs once everything is open, and that it keeps nothing else.

use std::path::{Path, PathBuf};

use super::witness::Witness;
use super::{Error, Invoker, Plan};
use crate::attribution::linux::process::OlderCgroups;
use crate::output;
use crate::sandbox::{self, Mode, Needs, Role, Status, User};
use crate::source::Capture;

/// What the names of files with the local time in them are made with.
const TIME_ZONE: [&str; 2] = ["/etc/localtime", "/usr/share/zoneinfo"];

/// Refuses, before there is a file, what the kernel will not hold to.
pub(super) fn check(plan: &Plan, needs: &Needs) -> Result<(), Error> {
    if plan.sandbox != Mode::Strict {
        return Ok(());
    }
    let status = sandbox::probe(needs);
    if status.missing().is_empty() { Ok(()) } else { Err(Error::Sandbox(status)) }
}

/// Starts the threads that compress, which have nothing but memory.
pub(super) fn start_workers(plan: &Plan) -> Status {
    if plan.compression.is_none() || plan.sandbox == Mode::Off {
        return Status::default();
    }
    output::count_cores();
    sandbox::apart(&Needs::of(Role::Compress), output::start_workers)
}

/// Gives up what is not needed any more, for good.
pub(super) fn enter(
    plan: &Plan,
    workers: Status,
    mut needs: Needs,
    capture: &Capture,
) -> Result<Status, Error> {
    if plan.sandbox == Mode::Off {
        return Ok(Status::off());
    }
    needs.packet_sockets = capture.sockets();
    let status = sandbox::restrict(&needs).and(workers);
    if plan.sandbox == Mode::Strict && !status.missing().is_empty() {
        return Err(Error::Sandbox(status));
    }
    Ok(status)
}

/// What this recording needs besides what is open.
pub(super) fn needs(plan: &Plan, witness: &Witness, older_cgroups: OlderCgroups) -> Needs {
    let looks = matches!(witness, Witness::Procfs(_));
    let mut needs = Needs {
        keeps: looks.then_some(sandbox::LOOKS),
        invoker: plan.invoker.clone().map(User::from),
        ..Needs::of(if looks { Role::RecordAndLook } else { Role::Record })
    };
    // What /proc tells of cgroups of version 1 the kernel side does not.
    if looks || matches!(witness, Witness::Ebpf(_)) && older_cgroups.are_there() {
        needs.read.push("/proc".into());
    }
    // The next file; and a first one is removed if the command cannot be started.
    if plan.rotation.is_some() || !plan.command.is_empty() {
        needs.write_in.extend(folder(&plan.path));
    }
    if plan.rotation.is_some() {
        needs.read.extend(TIME_ZONE.map(PathBuf::from));
    }
    needs
}

impl From<Invoker> for User {
    fn from(Invoker { uid, gid, groups }: Invoker) -> Self {
        Self { uid, gid, groups }
    }
}

/// The folder of a file; none of standard output.
pub fn folder(path: &Path) -> Option<PathBuf> {
    let parent = path.parent().filter(|_| !output::is_stdout(path))?;
    Some(if parent == Path::new("") { PathBuf::from(".") } else { parent.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_in_a_folder_and_standard_output_in_none_whatever_its_name() {
        assert_eq!(folder(Path::new("/tmp/a.pcapng")), Some("/tmp".into()));
        assert_eq!(folder(Path::new("a.pcapng")), Some(".".into()));
        for name in ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
            assert_eq!(folder(Path::new(name)), None, "{name}");
        }
    }
}

//! Which files may be opened, by Landlock; and that no TCP connection may be made or awaited.
//!
//! What is open already stays open. Landlock counts a look into /proc/PID/fd or /proc/PID/ns as tracing, and denies it for
//! every process outside; so a process that looks there cannot have it.

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, PathBeneath, PathFd, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::{Needs, Role};

/// The first that has rules for TCP, and all that are for files (but for devices, which are not opened).
const WHOLE: ABI = ABI::V4;

/// Restricts the calling thread.
pub(super) fn restrict(needs: &Needs) -> Result<(), String> {
    if needs.role == Role::RecordAndLook {
        return Err("to Landlock, a look at the sockets of others in /proc is tracing".to_owned());
    }
    let status = enforce(needs).map_err(|error| error.to_string())?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
            Err("the kernel has it, and it is not switched on".to_owned())
        }
        (RulesetStatus::NotEnforced, _) => Err("the kernel does not have it, or keeps it from us".to_owned()),
        (_, LandlockStatus::Available { effective_abi, .. }) if effective_abi < WHOLE => {
            Err("in part: its rules for TCP need Linux 6.7".to_owned())
        }
        _ => Ok(()),
    }
}

/// Everything is handled, and so denied, but for what the rules name. What a kernel is too old for is left out.
fn enforce(needs: &Needs) -> Result<RestrictionStatus, RulesetError> {
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V5))?
        .handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)?
        .scope(Scope::from_all(ABI::V6))?
        .create()?;
    allow(&mut ruleset, &needs.read, AccessFs::ReadFile | AccessFs::ReadDir);
    // A file is opened for reading too: on a full disk its last blocks are looked at again.
    let written = AccessFs::MakeReg
        | AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::RemoveFile
        | AccessFs::Truncate;
    allow(&mut ruleset, &needs.write_in, written);
    ruleset.restrict_self()
}

/// A path that cannot be named in a rule cannot be opened later: the error is told then. Pipes (/dev/fd/N) need none.
fn allow(ruleset: &mut RulesetCreated, paths: &[PathBuf], access: landlock::BitFlags<AccessFs>) {
    for path in paths {
        let Ok(opened) = PathFd::new(path) else { continue };
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(ABI::V5) };
        let _ = ruleset.add_rule(PathBeneath::new(opened, access));
    }
}

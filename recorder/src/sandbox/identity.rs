//! As whom the process goes on, and with which capabilities: as an ordinary user with none, where its files allow that.
//!
//! Root without capabilities still owns root's files. So root becomes the user who called sudo, if that user may use the files
//! that are needed later; without such a user and such files it becomes nobody. Where only root's power over other people's
//! files opens what is needed, that one is kept, and told.

use std::io;
use std::path::Path;
use std::thread;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::{Needs, Role};

/// The user id that stands for nobody in particular, and owns nothing (Linux: `overflowuid`).
const NOBODY: u32 = 65534;

/// A user to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
}

/// Becomes less, in the calling thread. The error tells which capabilities are kept, and why.
pub(super) fn become_less(needs: &Needs) -> Result<(), String> {
    let (mut kept, mut why) = needs.keeps.unwrap_or((CapabilitySet::empty(), ""));
    let mut user = None;
    if geteuid().is_root() {
        user = candidate(needs).filter(|user| may_go_on_as(Some(user), needs));
        if user.is_none() && !may_go_on_as(None, needs) {
            kept |= CapabilitySet::DAC_OVERRIDE;
            why = "neither root nor the user who called sudo may use the folder or the file without it";
        }
        if user.is_none() && needs.invoker.is_some() && !needs.write_in.is_empty() {
            kept |= CapabilitySet::CHOWN;
            why = "files are given to the user who called sudo, who may not write to the folder";
        }
    }
    // Only what there is can be kept.
    kept &= rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.permitted);
    drop_all_but(kept, user.as_ref()).map_err(|error| error.to_string())?;
    if kept.is_empty() { Ok(()) } else { Err(format!("{} kept: {why}", names(kept))) }
}

/// Whom root may become. Nobody is nobody to own files; and who looks into /proc does it as root, to whom it belongs.
fn candidate(needs: &Needs) -> Option<User> {
    let nobody = User { uid: NOBODY, gid: NOBODY, groups: Vec::new() };
    match (needs.role, &needs.invoker) {
        (Role::RecordAndLook, _) => None,
        (_, Some(invoker)) => Some(invoker.clone()),
        (_, None) => needs.write_in.is_empty().then_some(nobody),
    }
}

/// Whether this user, or the present one, can use the files without a capability; tried by a thread that ends with it.
fn may_go_on_as(user: Option<&User>, needs: &Needs) -> bool {
    let can = |path: &Path, access| accessat(CWD, path, access, AtFlags::EACCESS).is_ok();
    let tried = || {
        let less = drop_all_but(CapabilitySet::empty(), user).is_ok();
        less && needs.read.iter().all(|path| !path.exists() || can(path, Access::READ_OK))
            && needs.write_in.iter().all(|path| can(path, Access::WRITE_OK | Access::EXEC_OK))
    };
    thread::scope(|scope| scope.spawn(tried).join()).unwrap_or(false)
}

/// Changes the user and drops capabilities, in the calling thread.
fn drop_all_but(kept: CapabilitySet, user: Option<&User>) -> io::Result<()> {
    // Without CAP_SETPCAP they stay, and nothing comes of that: no program can be started.
    for capability in CapabilitySet::all().iter() {
        let _ = remove_capability_from_bounding_set(capability);
    }
    clear_ambient_capability_set()?;
    if let Some(User { uid, gid, groups }) = user {
        set_keep_capabilities(!kept.is_empty())?;
        let groups: Vec<_> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
        set_thread_groups(&groups)?;
        let (gid, uid) = (Gid::from_raw(*gid), Uid::from_raw(*uid));
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
    }
    // The look into /proc takes this one up when it begins, and puts it aside again.
    let effective = kept - CapabilitySet::DAC_READ_SEARCH;
    let sets = CapabilitySets { effective, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}

fn names(capabilities: CapabilitySet) -> String {
    let names = capabilities.iter_names().map(|(name, _)| format!("CAP_{name}"));
    names.collect::<Vec<_>>().join(", ")
}

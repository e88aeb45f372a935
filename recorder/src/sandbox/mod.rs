//! Capabilities that the binary got from its file (setcap(8)) are used for recording, and for nothing else.
//!
//! They let every user who may run it see what others send. They must not let that user read what others have stored:
//! CAP_DAC_READ_SEARCH, which is there to list /proc/PID/fd, opens every file. Root is left as it is: it has other ways.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

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

//! The capability to list other users' descriptors, taken up for as long as that is done.

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// While it is there, this thread has CAP_DAC_READ_SEARCH, if it was put aside (`sandbox`). Dropped, it is as before.
pub(super) struct FileAccess {
    before: Option<CapabilitySets>,
}

impl FileAccess {
    /// Takes it up. Without it less can be seen, which the scan counts by itself.
    pub(super) fn take_up() -> Self {
        let before = capabilities(None).ok();
        if let Some(mut sets) = before {
            sets.effective |= sets.permitted & CapabilitySet::DAC_READ_SEARCH;
            // Refused: as if it were not permitted.
            let _ = set_capabilities(None, sets);
        }
        Self { before }
    }
}

impl Drop for FileAccess {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // Less is always allowed.
            let _ = set_capabilities(None, before);
        }
    }
}

//! Counts. Nothing is lost in silence: each loss has a number here.

use super::{Attribution, Found, RealTime, Reason};

/// What happened on one interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceCounts {
    /// Packets that passed the filter, dropped ones included.
    pub received: u64,
    /// Packets that the kernel dropped because the ring was full. Where interfaces share a ring (`any`) the kernel does
    /// not say whose they were; then this is `None` and [`Statistics::dropped_by_kernel`] has the sum.
    pub dropped_by_kernel: Option<u64>,
    /// Packets that we took out of the ring and did not write.
    pub dropped_by_us: u64,
    /// Packets written.
    pub written: u64,
}

impl InterfaceCounts {
    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let dropped_before = earlier.dropped_by_kernel.unwrap_or(0);
        Self {
            received: self.received.saturating_sub(earlier.received),
            dropped_by_kernel: self.dropped_by_kernel.map(|dropped| dropped.saturating_sub(dropped_before)),
            dropped_by_us: self.dropped_by_us.saturating_sub(earlier.dropped_by_us),
            written: self.written.saturating_sub(earlier.written),
        }
    }
}

/// How many packets have an owner, and why the others have none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttributionCounts {
    found: [u64; Found::ALL.len()],
    without: [u64; Reason::ALL.len()],
}

impl AttributionCounts {
    /// Counts one packet.
    pub fn count(&mut self, attribution: &Attribution) {
        match attribution {
            Attribution::Known { found, .. } => self.found[*found as usize] += 1,
            Attribution::Unknown(reason) => self.without[*reason as usize] += 1,
        }
    }

    /// Adds `packets` with an owner found this way, as counted elsewhere (read from a file, or by another thread).
    pub const fn add_found(&mut self, found: Found, packets: u64) {
        self.found[found as usize] += packets;
    }

    /// Adds `packets` without an owner for this reason, as counted elsewhere.
    pub const fn add_without(&mut self, reason: Reason, packets: u64) {
        self.without[reason as usize] += packets;
    }

    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            found: std::array::from_fn(|at| self.found[at].saturating_sub(earlier.found[at])),
            without: std::array::from_fn(|at| self.without[at].saturating_sub(earlier.without[at])),
        }
    }

    /// Packets with at least one owner.
    pub fn attributed(&self) -> u64 {
        self.found.iter().sum()
    }

    /// Packets with an owner found this way.
    pub const fn found(&self, found: Found) -> u64 {
        self.found[found as usize]
    }

    /// Packets without an owner for this reason.
    pub const fn without(&self, reason: Reason) -> u64 {
        self.without[reason as usize]
    }

    /// All packets counted.
    pub fn total(&self) -> u64 {
        self.attributed() + self.without.iter().sum::<u64>()
    }
}

/// The counters of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// When the recording began.
    pub start: RealTime,
    /// When it ended.
    pub end: RealTime,
    /// By interface, in the order of the interface blocks.
    pub interfaces: Vec<InterfaceCounts>,
    /// Packets dropped by the kernel on all interfaces together.
    pub dropped_by_kernel: u64,
    /// How complete attribution is.
    pub attribution: AttributionCounts,
    /// Packets that were not written because they are not those of the command or the processes that were asked for:
    /// somebody else's, or nobody's for a reason.
    pub not_selected: AttributionCounts,
    /// Packets that stood in the file before a copy of it was made without them.
    pub filtered_out: u64,
    /// Socket events that the kernel side could not deliver.
    pub events_lost: u64,
}

impl Statistics {
    /// The counters of the interface at this position; zeros, if nothing was counted there yet.
    #[inline]
    pub fn interface(&mut self, index: usize) -> &mut InterfaceCounts {
        if index >= self.interfaces.len() {
            self.interfaces.resize(index + 1, InterfaceCounts::default());
        }
        &mut self.interfaces[index]
    }
}

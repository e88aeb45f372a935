//! Two clocks, two types: packets carry `RealTime`, kernel events carry `MonoTime`.

use std::time::Duration;

/// Nanoseconds since 1970-01-01 00:00 UTC (CLOCK_REALTIME). Steps when somebody sets the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealTime {
    ns: u64,
}

/// Nanoseconds since boot (CLOCK_MONOTONIC). Never steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonoTime {
    ns: u64,
}

impl RealTime {
    /// The time `ns` nanoseconds after the epoch.
    pub const fn from_ns(ns: u64) -> Self {
        Self { ns }
    }

    /// Nanoseconds since the epoch.
    pub const fn as_ns(self) -> u64 {
        self.ns
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.ns.saturating_sub(earlier.ns))
    }
}

impl MonoTime {
    /// The time `ns` nanoseconds after boot.
    pub const fn from_ns(ns: u64) -> Self {
        Self { ns }
    }

    /// Nanoseconds since boot.
    pub const fn as_ns(self) -> u64 {
        self.ns
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.ns.saturating_sub(earlier.ns))
    }

    /// This time moved forward by `by`; stays at the end of time rather than wrap.
    pub const fn plus(self, by: Duration) -> Self {
        Self { ns: self.ns.saturating_add(by.as_nanos() as u64) }
    }

    /// This time moved back by `by`; stays at boot rather than wrap.
    pub const fn minus(self, by: Duration) -> Self {
        Self { ns: self.ns.saturating_sub(by.as_nanos() as u64) }
    }
}

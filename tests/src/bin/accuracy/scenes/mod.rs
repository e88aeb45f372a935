//! The scenarios, by what they are about.

mod before;
mod clients;
mod containers;
mod frames;
mod icmp;
mod memory;
mod mixed;
mod names;
mod overload;
mod protocols;
mod reuse;
mod servers;
mod sharing;

use crate::scenario::Scenario;

/// All of them, in the order of the table.
pub(crate) const ALL: [&[Scenario]; 13] = [
    &clients::ALL,
    &servers::ALL,
    &sharing::ALL,
    &names::ALL,
    &reuse::ALL,
    &icmp::ALL,
    &frames::ALL,
    &before::ALL,
    &containers::ALL,
    &protocols::ALL,
    &mixed::ALL,
    &overload::ALL,
    &memory::ALL,
];

//! The interfaces that have given packets, and the quick way from a packet to its interface.
//!
//! An interface is known by its number and link type. The kernel may give a number to another interface later: when
//! rtnetlink says that the number's holder is gone or renamed, packets after that time begin a new one.

use super::links::Link;
use crate::model::{Interface, InterfaceId, LinkType, RealTime};
use crate::source::InterfaceOrigin;

const SLOTS: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Entry {
    ifindex: u32,
    link_type: LinkType,
    /// The life of this interface, both ends included.
    since: RealTime,
    until: RealTime,
    id: InterfaceId,
}

/// All interfaces of one recording, in order of first appearance.
#[derive(Debug)]
pub(super) struct Known {
    interfaces: Vec<Interface>,
    origins: Vec<InterfaceOrigin>,
    delivered: Vec<u64>,
    entries: Vec<Entry>,
    /// The entry that was found last for each ifindex, by its low bits.
    slots: [Option<Entry>; SLOTS],
    snap_length: u32,
    filter: Option<String>,
}

impl Known {
    /// None known yet. `snap_length` and `filter` are what each interface will be described with.
    pub(super) fn new(snap_length: u32, filter: Option<String>) -> Self {
        Self {
            interfaces: Vec::new(),
            origins: Vec::new(),
            delivered: Vec::new(),
            entries: Vec::new(),
            slots: [None; SLOTS],
            snap_length,
            filter,
        }
    }

    /// The interface of a packet, if it is known.
    #[inline]
    pub(super) fn find(&mut self, ifindex: u32, link_type: LinkType, time: RealTime) -> Option<InterfaceId> {
        let is_it = |entry: &Entry| {
            (entry.ifindex, entry.link_type) == (ifindex, link_type)
                && entry.since <= time
                && time <= entry.until
        };
        let slot = &mut self.slots[ifindex as usize % SLOTS];
        match slot {
            Some(entry) if is_it(entry) => Some(entry.id),
            _ => {
                *slot = Some(*self.entries.iter().find(|entry| is_it(entry))?);
                slot.map(|entry| entry.id)
            }
        }
    }

    /// Adds an interface. `link` is what is known of it, if anything.
    pub(super) fn add(&mut self, ifindex: u32, link_type: LinkType, link: Option<&Link>) -> InterfaceId {
        let id = InterfaceId(self.interfaces.len() as u32);
        self.interfaces.push(Interface {
            name: link.map_or_else(|| format!("if{ifindex}"), |link| link.name.clone()),
            description: link.and_then(|link| link.alias.clone()),
            link_type,
            mac: link.and_then(|link| link.mac),
            snap_length: self.snap_length,
            filter: self.filter.clone(),
        });
        self.origins.push(InterfaceOrigin { ifindex, is_loopback: link.is_some_and(Link::is_loopback) });
        self.delivered.push(0);
        let before =
            self.entries.iter().filter(|entry| entry.ifindex == ifindex && entry.link_type == link_type);
        let since = before.map(|entry| RealTime::from_ns(entry.until.as_ns().saturating_add(1))).max();
        let until = RealTime::from_ns(u64::MAX);
        self.entries.push(Entry { ifindex, link_type, since: since.unwrap_or_default(), until, id });
        id
    }

    /// Packets of this ifindex that were captured after `time` come from another interface.
    pub(super) fn end(&mut self, ifindex: u32, time: RealTime) {
        for entry in self.entries.iter_mut().filter(|entry| entry.ifindex == ifindex) {
            entry.until = entry.until.min(time);
        }
        self.slots[ifindex as usize % SLOTS] = None;
    }

    /// Ends the interfaces of this ifindex whose name is not `name`.
    pub(super) fn rename(&mut self, ifindex: u32, name: &str, time: RealTime) {
        let is_renamed = |entry: &&Entry| {
            entry.ifindex == ifindex
                && time < entry.until
                && self.interfaces.get(entry.id.0 as usize).is_some_and(|interface| interface.name != name)
        };
        if self.entries.iter().any(|entry| is_renamed(&entry)) {
            self.end(ifindex, time);
        }
    }

    /// Counts a packet that was given out.
    #[inline]
    pub(super) fn count(&mut self, id: InterfaceId) {
        if let Some(count) = self.delivered.get_mut(id.0 as usize) {
            *count += 1;
        }
    }

    pub(super) fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    pub(super) fn origins(&self) -> &[InterfaceOrigin] {
        &self.origins
    }

    /// Packets given out, by interface.
    pub(super) fn delivered(&self) -> &[u64] {
        &self.delivered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETHERNET: LinkType = LinkType::ETHERNET;

    fn at(ns: u64) -> RealTime {
        RealTime::from_ns(ns)
    }

    fn link(name: &str) -> Link {
        Link { name: name.into(), ..Link::default() }
    }

    #[test]
    fn one_interface_per_number_and_link_type() {
        let mut known = Known::new(96, None);
        assert_eq!(known.find(3, ETHERNET, at(1)), None);
        let ethernet = known.add(3, ETHERNET, Some(&link("eth0")));
        let raw = known.add(3, LinkType::RAW_IP, None);
        // 67 shares its slot with 3.
        let other = known.add(67, ETHERNET, None);

        assert_eq!(known.find(3, ETHERNET, at(1)), Some(ethernet));
        assert_eq!(known.find(67, ETHERNET, at(1)), Some(other));
        assert_eq!(known.find(3, LinkType::RAW_IP, at(1)), Some(raw));
        assert_eq!(known.find(3, ETHERNET, at(1)), Some(ethernet));
        assert_eq!(known.interfaces()[1].name, "if3");
    }

    #[test]
    fn a_number_in_new_hands_is_a_new_interface_but_older_packets_keep_theirs() {
        let mut known = Known::new(96, None);
        let old = known.add(3, ETHERNET, Some(&link("veth1")));
        known.rename(3, "veth1", at(10));
        assert_eq!(known.find(3, ETHERNET, at(11)), Some(old), "the same name is no change");
        known.rename(3, "veth2", at(20));

        assert_eq!(known.find(3, ETHERNET, at(21)), None);
        assert_eq!(known.find(3, ETHERNET, at(20)), Some(old));
        let new = known.add(3, ETHERNET, Some(&link("veth2")));
        assert_eq!(known.find(3, ETHERNET, at(21)), Some(new));
        assert_eq!(known.find(3, ETHERNET, at(19)), Some(old));
    }
}

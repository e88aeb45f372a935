//! What can be recorded here: the interfaces of this network namespace, with their addresses.

use super::addresses::Addresses;
use super::filter::Class;
use super::links::Links;
use crate::source::{Error, InterfaceDetails};

/// The interfaces of this network namespace, in the kernel's order. Needs no privilege.
pub fn interfaces() -> Result<Vec<InterfaceDetails>, Error> {
    let links = Links::open().map_err(Error::List)?;
    let addresses = Addresses::open().and_then(|mut addresses| addresses.list()).map_err(Error::List)?;
    let addresses_of = |index: u32| {
        let own = addresses.iter().filter(|(owner, _)| *owner == index);
        own.map(|&(_, address)| address).collect()
    };
    let details = |link: &super::links::Link| InterfaceDetails {
        name: link.name.clone(),
        index: link.index,
        link_type: Class::main(link.hardware).link_type(),
        is_up: link.is_up(),
        is_loopback: link.is_loopback(),
        addresses: addresses_of(link.index),
        mac: link.mac,
        description: link.alias.clone(),
        mtu: link.mtu,
    };
    Ok(links.all().into_iter().map(details).collect())
}

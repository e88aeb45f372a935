//! What can be recorded here: the interfaces and addresses of this network namespace.

use std::io;
use std::net::IpAddr;

use super::filter::Class;
use super::links::Links;
use super::sys;
use crate::source::{Error, InterfaceDetails};

/// The interfaces of this network namespace, in the kernel's order. Needs no privilege.
pub fn interfaces() -> Result<Vec<InterfaceDetails>, Error> {
    let links = Links::open().map_err(Error::List)?;
    let addresses = sys::interface_addresses().map_err(Error::List)?;
    let addresses_of = |name: &str| {
        let own = addresses.iter().filter(|(owner, _)| owner == name);
        own.map(|&(_, address)| address).collect()
    };
    let details = |link: &super::links::Link| InterfaceDetails {
        name: link.name.clone(),
        index: link.index,
        link_type: Class::main(link.hardware).link_type(),
        is_up: link.is_up(),
        is_loopback: link.is_loopback(),
        addresses: addresses_of(&link.name),
        mac: link.mac,
        description: link.alias.clone(),
        mtu: link.mtu,
    };
    Ok(links.all().into_iter().map(details).collect())
}

/// All addresses of this network namespace.
pub fn local_addresses() -> io::Result<Vec<IpAddr>> {
    Ok(sys::interface_addresses()?.into_iter().map(|(_, address)| address).collect())
}

//! The names of addresses, as the DNS answers of the capture tell them.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::decode::Named;
use crate::pcapng::annotation::escape_text;

/// A content network has thousands of names for one address; the first ones tell enough.
const MOST_FOR_ONE: usize = 4;

/// What was answered so far, within a limit.
#[derive(Debug)]
pub(super) struct Names {
    by_address: HashMap<IpAddr, Vec<String>>,
    most_addresses: usize,
    /// Answers that there was no room for.
    pub(super) beyond: u64,
}

impl Names {
    /// Names for at most so many addresses.
    pub(super) fn new(most_addresses: usize) -> Self {
        Self { by_address: HashMap::new(), most_addresses, beyond: 0 }
    }

    /// Remembers one answer, spelled as texts of the file are.
    pub(super) fn learn(&mut self, named: &Named) {
        let is_full = self.by_address.len() >= self.most_addresses;
        if is_full && !self.by_address.contains_key(&named.address) {
            self.beyond += 1;
            return;
        }
        let names = self.by_address.entry(named.address).or_default();
        let name = escape_text(&named.name);
        if names.contains(&name) {
            return;
        }
        if names.len() < MOST_FOR_ONE {
            names.push(name);
        } else {
            self.beyond += 1;
        }
    }

    /// The names of an address, the first one learnt first.
    pub(super) fn of(&self, address: IpAddr) -> &[String] {
        self.by_address.get(&address).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(last: u8, name: &str) -> Named {
        Named { address: IpAddr::from([10, 0, 0, last]), name: name.into() }
    }

    #[test]
    fn an_address_has_its_names_in_the_order_of_the_answers_and_each_once() {
        let mut names = Names::new(9);
        for name in ["www.example.com", "example.com", "www.example.com", "\x1b[2J"] {
            names.learn(&named(1, name));
        }
        assert_eq!(names.of([10, 0, 0, 1].into()), ["www.example.com", "example.com", r"\x1b[2J"]);
        assert_eq!((names.of([10, 0, 0, 2].into()), names.beyond), (&[][..], 0));
    }

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let mut names = Names::new(2);
        for number in 0..5_u8 {
            names.learn(&named(number, "a"));
            names.learn(&named(1, &number.to_string()));
        }
        assert_eq!(names.of([10, 0, 0, 4].into()), [] as [String; 0]);
        // Three addresses, and the fifth and sixth name of the second one.
        assert_eq!((names.of([10, 0, 0, 1].into()).len(), names.beyond), (4, 3 + 2));
    }
}

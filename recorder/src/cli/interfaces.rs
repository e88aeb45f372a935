//! `recorder interfaces`: what can be recorded here.

use std::io::{self, Write};

use super::text;
use crate::model::LinkType;
use crate::source::{self, InterfaceDetails};

/// The arguments of `recorder interfaces`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Print JSON: one array of objects
    #[arg(long)]
    pub json: bool,
}

/// One interface in JSON.
#[derive(serde::Serialize)]
struct Entry<'a> {
    name: &'a str,
    index: u32,
    link_type: u16,
    link_type_name: &'static str,
    up: bool,
    loopback: bool,
    addresses: Vec<String>,
    mac: Option<String>,
    description: Option<&'a str>,
    mtu: u32,
}

/// Writes what can be recorded to `out`. A broken pipe comes back as the error that it is.
pub fn run(args: &Args, out: &mut dyn Write) -> io::Result<()> {
    let interfaces = source::interfaces().map_err(io::Error::other)?;
    if args.json { write_json(&interfaces, out) } else { write_table(&interfaces, out) }
}

fn write_json(interfaces: &[InterfaceDetails], out: &mut dyn Write) -> io::Result<()> {
    let entries: Vec<_> = interfaces.iter().map(entry).collect();
    writeln!(out, "{}", text::json(serde_json::to_string_pretty(&entries)?))
}

fn entry(interface: &InterfaceDetails) -> Entry<'_> {
    let InterfaceDetails { name, index, link_type, is_up, is_loopback, addresses, mac, description, mtu } =
        interface;
    Entry {
        name,
        index: *index,
        link_type: link_type.0,
        link_type_name: link_type_name(*link_type),
        up: *is_up,
        loopback: *is_loopback,
        addresses: addresses.iter().map(ToString::to_string).collect(),
        mac: mac.as_ref().map(mac_text),
        description: description.as_deref(),
        mtu: *mtu,
    }
}

fn write_table(interfaces: &[InterfaceDetails], out: &mut dyn Write) -> io::Result<()> {
    let head = ["NAME", "STATE", "LINK", "MTU", "MAC", "ADDRESSES"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(interfaces.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

fn row(interface: &InterfaceDetails) -> [String; 6] {
    let mut last: Vec<String> = interface.addresses.iter().map(ToString::to_string).collect();
    last.extend(interface.description.as_deref().map(|text| format!("({})", text::safe(text))));
    [
        text::safe(&interface.name),
        if interface.is_up { "up" } else { "down" }.to_owned(),
        link_type_name(interface.link_type).to_owned(),
        interface.mtu.to_string(),
        interface.mac.as_ref().map_or_else(|| "-".to_owned(), mac_text),
        last.join(" "),
    ]
}

/// The name in the registry of tcpdump.org, without LINKTYPE_.
fn link_type_name(link_type: LinkType) -> &'static str {
    match link_type {
        LinkType::ETHERNET => "ETHERNET",
        LinkType::RAW_IP => "RAW",
        LinkType::LINUX_SLL2 => "LINUX_SLL2",
        LinkType(_) => "other",
    }
}

fn mac_text(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Vec<InterfaceDetails> {
        let loopback = InterfaceDetails {
            name: "lo".into(),
            index: 1,
            link_type: LinkType::ETHERNET,
            is_up: true,
            is_loopback: true,
            addresses: vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
            mac: None,
            description: None,
            mtu: 65536,
        };
        let tunnel = InterfaceDetails {
            name: "tun0".into(),
            index: 12,
            link_type: LinkType::RAW_IP,
            is_up: false,
            is_loopback: false,
            addresses: vec![],
            mac: Some([2, 0, 0, 0, 0, 0xff]),
            description: Some("to the \u{1b}lab".into()),
            mtu: 1420,
        };
        vec![loopback, tunnel]
    }

    #[test]
    fn the_table_is_aligned_and_free_of_control_characters() {
        let mut out = Vec::new();
        write_table(&some(), &mut out).unwrap();
        let expected = "\
NAME  STATE  LINK      MTU    MAC                ADDRESSES
lo    up     ETHERNET  65536  -                  127.0.0.1 ::1
tun0  down   RAW       1420   02:00:00:00:00:ff  (to the \\x1blab)
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn json_has_one_object_per_interface() {
        let mut out = Vec::new();
        write_json(&some(), &mut out).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value[0]["addresses"][1], "::1");
        assert_eq!(value[1]["mac"], "02:00:00:00:00:ff");
        assert_eq!(value[1]["link_type"], 101);
    }
}

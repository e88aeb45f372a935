//! Sizes on the command line: a bare number in the unit that the option has always had, or one with its unit.

use std::fmt;
use std::ops::RangeInclusive;

/// A kibibyte, in bytes.
pub const KIB: u64 = 1 << 10;
/// A mebibyte, in bytes.
pub const MIB: u64 = 1 << 20;
/// A gibibyte, in bytes.
pub const GIB: u64 = 1 << 30;

/// Units in bytes, small letters. A single letter is a power of 1024, as for tcpdump's `-C`.
const UNITS: [(&str, u64); 10] = [
    ("b", 1),
    ("k", KIB),
    ("kib", KIB),
    ("kb", 1000),
    ("m", MIB),
    ("mib", MIB),
    ("mb", 1_000_000),
    ("g", GIB),
    ("gib", GIB),
    ("gb", 1_000_000_000),
];

/// A number of bytes. Printed in the largest binary unit in which it is whole: `64MiB`, `100B`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(
    /// In bytes.
    pub u64,
);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        let is_whole = |unit: &(&str, u64)| bytes != 0 && bytes % unit.1 == 0;
        let (name, unit) =
            [("GiB", GIB), ("MiB", MIB), ("KiB", KIB)].into_iter().find(is_whole).unwrap_or(("B", 1));
        write!(f, "{}{name}", bytes / unit)
    }
}

/// What reads a size for clap: a bare number counts `unit` bytes; in bytes it is in `allowed`.
pub fn parser(
    unit: u64,
    allowed: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<Size, String> + Clone + Send + Sync + 'static {
    move |text| parse(text, unit, &allowed)
}

fn parse(text: &str, bare: u64, allowed: &RangeInclusive<u64>) -> Result<Size, String> {
    let digits = text.len() - text.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start().to_ascii_lowercase();
    let unit = match unit.as_str() {
        "" => Some(bare),
        unit => UNITS.iter().find(|(name, _)| *name == unit).map(|(_, bytes)| *bytes),
    };
    let (Ok(number), Some(unit)) = (number.parse::<u64>(), unit) else {
        return Err("give a whole number, with a unit or without: 512KiB, 64MiB, 2M, 1GiB".to_owned());
    };
    let bytes = number.saturating_mul(unit);
    if !allowed.contains(&bytes) {
        return Err(format!("it must be {} to {}", Size(*allowed.start()), Size(*allowed.end())));
    }
    Ok(Size(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mib(text: &str) -> Result<u64, String> {
        parse(text, MIB, &(0..=u64::MAX)).map(|Size(bytes)| bytes)
    }

    #[test]
    fn a_bare_number_is_in_the_unit_of_the_option() {
        assert_eq!(mib("64"), Ok(64 << 20));
        assert_eq!(parse("64", 1, &(0..=100)), Ok(Size(64)));
    }

    #[test]
    fn a_unit_counts_as_it_is_written() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("512KiB", 512 << 10),
            ("2M", 2 << 20),
            ("2m", 2 << 20),
            ("3 GiB", 3 << 30),
            ("1g", 1 << 30),
            ("7k", 7 << 10),
            ("10kB", 10_000),
            ("10MB", 10_000_000),
            ("1GB", 1_000_000_000),
            ("9B", 9),
            ("0", 0),
        ] {
            assert_eq!(mib(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_examples() {
        for text in ["", "MiB", "-1", "1.5MiB", "64 tons", "64MiBs", "0x10", "99999999999999999999"] {
            let error = mib(text).unwrap_err();
            assert!(error.contains("64MiB"), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_told_the_bounds() {
        let allowed = MIB..=4 * GIB;
        for text in ["0", "1023KiB", "4097", "5GiB", "18446744073709551615"] {
            assert_eq!(parse(text, MIB, &allowed), Err("it must be 1MiB to 4GiB".to_owned()), "{text}");
        }
        assert_eq!(parse("4096", MIB, &allowed), Ok(Size(4 * GIB)));
    }

    #[test]
    fn a_size_is_printed_so_that_it_is_read_as_the_same() {
        for (bytes, text) in [
            (0, "0B"),
            (100, "100B"),
            (1536, "1536B"),
            (512 << 10, "512KiB"),
            (64 << 20, "64MiB"),
            (4 * GIB, "4GiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
            assert_eq!(mib(text), Ok(bytes));
        }
    }
}

//! Moments in a recording, as options give them: RFC 3339, local date and time, or since the first packet.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Local, LocalResult, NaiveDateTime, SecondsFormat, TimeZone, Utc};

use crate::model::RealTime;

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A time of the world.
    At(RealTime),
    /// So long after the first packet of the file.
    SinceFirst(Duration),
}

/// Why a text is no moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}: expected 2026-11-21T01:22:47Z, local 2026-11-21 01:22:47.5, or +10s since the first packet")]
pub struct BadMoment {
    why: String,
}

impl FromStr for Moment {
    type Err = BadMoment;

    fn from_str(text: &str) -> Result<Self, BadMoment> {
        if let Some(span) = text.strip_prefix('+') {
            let span = duration(span).ok_or_else(|| bad(text, "is no stretch of time"))?;
            return Ok(Self::SinceFirst(span));
        }
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return at(text, time.to_utc());
        }
        let formats = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"];
        let naive = formats.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
        let naive = naive.ok_or_else(|| bad(text, "is no time"))?;
        match Local.from_local_datetime(&naive) {
            LocalResult::Single(time) => at(text, time.to_utc()),
            LocalResult::Ambiguous(..) => Err(bad(text, "was twice, when the clocks were set back")),
            LocalResult::None => Err(bad(text, "never was, because the clocks were set forward")),
        }
    }
}

impl Moment {
    /// When it is in a file whose first packet has the time `first`.
    pub const fn time(self, first: RealTime) -> RealTime {
        match self {
            Self::At(time) => time,
            Self::SinceFirst(span) => RealTime::from_ns(first.as_ns().saturating_add(span.as_nanos() as u64)),
        }
    }
}

/// In UTC, or as it can be given again.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(time) => {
                let time = DateTime::from_timestamp_nanos(time.as_ns() as i64);
                f.write_str(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
            }
            Self::SinceFirst(span) => write!(f, "+{}s", span.as_secs_f64()),
        }
    }
}

fn at(text: &str, time: DateTime<Utc>) -> Result<Moment, BadMoment> {
    let ns = time.timestamp_nanos_opt().and_then(|ns| u64::try_from(ns).ok());
    ns.map(|ns| Moment::At(RealTime::from_ns(ns))).ok_or_else(|| bad(text, "is before 1970 or after 2262"))
}

fn bad(text: &str, why: &str) -> BadMoment {
    BadMoment { why: format!("`{text}` {why}") }
}

/// `10`, `10s`, `1.5m`, `200ms`: at most 292 years.
fn duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let unit_ns: u128 = match unit {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "" | "s" => 1_000_000_000,
        "m" | "min" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "d" => 86_400_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if number.is_empty()
        || whole.is_empty()
        || !is_digits(whole)
        || !is_digits(fraction)
        || fraction.len() > 9
    {
        return None;
    }
    let parts = u128::from(format!("0{fraction}").parse::<u64>().ok()?);
    let ns = u128::from(whole.parse::<u64>().ok()?) * unit_ns
        + parts * unit_ns / 10_u128.pow(fraction.len() as u32);
    let ns = u64::try_from(ns).ok().filter(|ns| i64::try_from(*ns).is_ok())?;
    Some(Duration::from_nanos(ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_can_be_given_in_three_ways() {
        let at = |ns| Ok(Moment::At(RealTime::from_ns(ns)));
        let since = |ns| Ok(Moment::SinceFirst(Duration::from_nanos(ns)));
        assert_eq!("2023-11-14T22:13:20Z".parse(), at(1_700_000_000_000_000_000));
        assert_eq!("2023-11-14T23:13:20.000000005+01:00".parse(), at(1_700_000_000_000_000_005));
        for (text, ns) in [
            ("+10", 10_000_000_000),
            ("+10s", 10_000_000_000),
            ("+1.5m", 90_000_000_000),
            ("+0.000000001s", 1),
            ("+200ms", 200_000_000),
            ("+2h", 7_200_000_000_000),
            ("+0", 0),
        ] {
            assert_eq!(text.parse(), since(ns), "{text}");
        }
        let naive = NaiveDateTime::parse_from_str("2023-06-01 12:00:00", "%Y-%m-%d %H:%M:%S").unwrap();
        let local = Local.from_local_datetime(&naive).unwrap().timestamp_nanos_opt().unwrap() as u64;
        for text in ["2023-06-01 12:00:00", "2023-06-01T12:00", "2023-06-01 12:00:00.0"] {
            assert_eq!(text.parse(), at(local), "{text}");
        }
        assert_eq!("2023-06-01 12:00:00.5".parse(), at(local + 500_000_000));
    }

    #[test]
    fn a_text_that_is_no_moment_is_told_with_what_would_be_one() {
        for text in [
            "",
            "+",
            "+s",
            "+1.5.5s",
            "+1y",
            "+-1s",
            "+99999999999h",
            "yesterday",
            "12:00",
            "1960-01-01T00:00:00Z",
        ] {
            let error = text.parse::<Moment>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{text}` ")) && error.contains("+10s"), "{error}");
        }
    }

    #[test]
    fn it_is_spelled_so_that_it_can_be_given_again() {
        for text in ["2023-11-14T22:13:20Z", "2023-11-14T22:13:20.000000005Z", "+10s", "+1.5s"] {
            let moment: Moment = text.parse().unwrap();
            assert_eq!(moment.to_string(), text);
            assert_eq!(moment.to_string().parse(), Ok(moment));
        }
        let first = RealTime::from_ns(5);
        assert_eq!("+1us".parse::<Moment>().unwrap().time(first), RealTime::from_ns(1005));
    }
}

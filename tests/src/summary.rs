//! `recorder summary --json`, read so loosely that its shape may change without a test to change.

use std::path::Path;

use serde_json::Value;

use crate::recorder;

/// How many packets have no owner for this reason (a name of `recorder::model::Reason`); 0 where it is not told.
pub fn packets_without_owner(file: &Path, reason: &str) -> u64 {
    let path = file.to_str().expect("our paths are UTF-8");
    let text = recorder::ask(&["summary", "--json", path]);
    let value: Value = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("summary --json is not JSON: {error}\n{text}"));
    find(&value, &plain(reason)).unwrap_or(0)
}

/// The number under this key, wherever it is; or the `packets` of an object whose `reason` it is.
fn find(value: &Value, key: &str) -> Option<u64> {
    match value {
        Value::Object(map) => {
            let here = map.iter().find(|(name, _)| plain(name) == key).and_then(|(_, value)| count(value));
            let named = map.get("reason").and_then(Value::as_str).is_some_and(|reason| plain(reason) == key);
            let named = if named { map.get("packets").and_then(Value::as_u64) } else { None };
            here.or(named).or_else(|| map.values().find_map(|value| find(value, key)))
        }
        Value::Array(values) => values.iter().find_map(|value| find(value, key)),
        _ => None,
    }
}

fn count(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.get("packets").and_then(Value::as_u64))
}

/// Letters only, all small: `not IP`, `not_ip` and `NotIp` are the same.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::{find, plain};

    #[test]
    fn a_reason_is_found_however_it_is_spelled_and_nested() {
        for text in [
            r#"{"attribution":{"without":{"not IP":7}}}"#,
            r#"{"unattributed":[{"reason":"not_ip","packets":7}]}"#,
            r#"{"notIp":{"packets":7,"bytes":9}}"#,
        ] {
            assert_eq!(find(&serde_json::from_str(text).unwrap(), &plain("not IP")), Some(7), "{text}");
        }
    }
}

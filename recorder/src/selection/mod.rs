//! Which packets are those of certain processes: expressions such as `name=curl and not user=root`, and what they mean
//! for a packet. Pure: what is compared is what a [`Process`] holds; the names of users are asked of the caller.
//!
//! ```text
//! any        = all { ("or" | "||") all }
//! all        = one { ("and" | "&&") one }
//! one        = ("not" | "!") one | "(" any ")" | comparison
//! comparison = key ("=" | "!=" | "~") value          key!=value is not key=value
//! ```
//!
//! An expression is about a process, and a packet has a process at one end, at both, or at none. [`ProcessFilter`] says what
//! follows.

mod parse;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::os::unix::ffi::OsStrExt;

use globset::{GlobBuilder, GlobMatcher};

use crate::model::{Attribution, Owner, Process, ProcessIndex, ProcessTable};

pub use parse::{SyntaxError, parse};

/// Container tools print so much of an id.
const SHORT_CONTAINER_ID: usize = 12;

/// Words that join comparisons, and so are no values unless quoted.
const RESERVED: [&str; 3] = ["and", "or", "not"];

/// What of a process is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Its id on the host.
    Pid,
    /// The id of its parent.
    ParentPid,
    /// Its name.
    Name,
    /// The path of its executable.
    Exe,
    /// Its real user id, by number or by the name of the user.
    User,
    /// The path of its cgroup.
    Cgroup,
    /// The systemd unit that it is in.
    Unit,
    /// The container that it is in: its name, its id, or the beginning of its id (12 hexadecimal digits or more).
    Container,
}

impl Key {
    const ALL: [(&str, Self); 9] = [
        ("pid", Self::Pid),
        ("ppid", Self::ParentPid),
        ("name", Self::Name),
        ("exe", Self::Exe),
        ("user", Self::User),
        ("uid", Self::User),
        ("cgroup", Self::Cgroup),
        ("unit", Self::Unit),
        ("container", Self::Container),
    ];

    fn named(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(name, _)| *name == word).map(|(_, key)| *key)
    }

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, key)| *key == self).map_or("", |(name, _)| name)
    }

    const fn is_number(self) -> bool {
        matches!(self, Self::Pid | Self::ParentPid | Self::User)
    }

    fn text_of(self, process: &Process) -> Option<&[u8]> {
        match self {
            Self::Name => Some(&process.name),
            Self::Exe => process.path.as_deref(),
            Self::Cgroup => process.cgroup.as_deref().map(str::as_bytes),
            Self::Unit => process.unit.as_deref().map(str::as_bytes),
            Self::Container => process.container.as_deref().map(str::as_bytes),
            Self::Pid | Self::ParentPid | Self::User => None,
        }
    }

    fn number_of(self, process: &Process) -> Option<u32> {
        match self {
            Self::Pid => Some(process.pid),
            Self::ParentPid => process.parent_pid,
            Self::User => process.uid,
            Self::Name | Self::Exe | Self::Cgroup | Self::Unit | Self::Container => None,
        }
    }
}

/// Why a value cannot be compared with this key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: expected {expected}")]
pub struct BadValue {
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub expected: String,
}

/// A statement about a process.
#[derive(Clone, Debug)]
pub enum Expr {
    /// This comparison holds.
    Is(Comparison),
    /// This does not hold.
    Not(Box<Self>),
    /// All of these hold.
    All(Vec<Self>),
    /// At least one of these holds.
    Any(Vec<Self>),
}

/// A key with a value. Of a process that does not have the key, and of none at all, it is false.
#[derive(Clone, Debug)]
pub struct Comparison {
    key: Key,
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    /// A number, and how it was written: a user has a name.
    Number(u32, String),
    Text(Vec<u8>),
    Glob(GlobMatcher),
}

impl Comparison {
    /// Whether `key` has this value. `user_id` tells the id of a user by name.
    ///
    /// # Errors
    /// If the key is a number and the value is none, or is no user.
    pub fn equal(key: Key, value: &[u8], user_id: &dyn Fn(&str) -> Option<u32>) -> Result<Self, BadValue> {
        let value = if key.is_number() { number(key, value, user_id)? } else { Value::Text(value.to_vec()) };
        Ok(Self { key, value })
    }

    /// Whether all of `key` fits `pattern`, in which `*` stands for any bytes, `?` for any byte, `[...]` for one of these
    /// (`[!...]`: none of them) and `{a,b}` for one of these texts. A slash is a byte as any other, and so is a backslash.
    ///
    /// # Errors
    /// If the key is a number, or the pattern is damaged.
    pub fn like(key: Key, pattern: &[u8]) -> Result<Self, BadValue> {
        if key.is_number() {
            return Err(BadValue {
                what: format!("`~` compares texts, and {} is a number", key.name()),
                expected: "`=` or `!=`".into(),
            });
        }
        let bad =
            |what: String| BadValue { what, expected: "a pattern of `*`, `?`, `[...]`, `{a,b}`".into() };
        let pattern = std::str::from_utf8(pattern)
            .map_err(|_| bad("this pattern is not UTF-8 (`?` is any byte)".into()))?;
        let glob = GlobBuilder::new(pattern).literal_separator(false).backslash_escape(false).build();
        let glob = glob.map_err(|error| bad(format!("this pattern is damaged, {}", error.kind())))?;
        Ok(Self { key, value: Value::Glob(glob.compile_matcher()) })
    }

    fn holds(&self, process: &Process) -> bool {
        let text = || self.key.text_of(process);
        match &self.value {
            Value::Number(number, _) => self.key.number_of(process) == Some(*number),
            Value::Text(value) if self.key == Key::Container && is_container_id(value) => {
                text().is_some_and(|id| id.starts_with(value))
            }
            Value::Text(value) => text() == Some(value),
            Value::Glob(glob) => text().is_some_and(|text| glob.is_match(OsStr::from_bytes(text))),
        }
    }
}

/// Whether this is an id or the beginning of one, as container tools print it.
fn is_container_id(value: &[u8]) -> bool {
    value.len() >= SHORT_CONTAINER_ID && value.iter().all(u8::is_ascii_hexdigit)
}

fn number(key: Key, value: &[u8], user_id: &dyn Fn(&str) -> Option<u32>) -> Result<Value, BadValue> {
    let text = String::from_utf8_lossy(value).into_owned();
    let number = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    match number {
        Some(number) => Ok(Value::Number(number, text)),
        None if key == Key::User => match user_id(&text) {
            Some(uid) => Ok(Value::Number(uid, text)),
            None => Err(BadValue {
                what: format!("there is no user `{text}` here"),
                expected: "the name of a user of this system, or a user id".into(),
            }),
        },
        None => Err(BadValue {
            what: format!("`{text}` is no process id"),
            expected: "a number from 0 to 4294967295".into(),
        }),
    }
}

impl Expr {
    /// Whether at least one of these holds; nothing if there are none.
    pub fn any(mut exprs: Vec<Self>) -> Option<Self> {
        match exprs.len() {
            0 | 1 => exprs.pop(),
            _ => Some(Self::Any(exprs)),
        }
    }

    /// Whether all of these hold; nothing if there are none.
    pub fn all(mut exprs: Vec<Self>) -> Option<Self> {
        match exprs.len() {
            0 | 1 => exprs.pop(),
            _ => Some(Self::All(exprs)),
        }
    }

    /// Whether it holds of this process; of none, no comparison does.
    pub fn holds(&self, process: Option<&Process>) -> bool {
        match self {
            Self::Is(comparison) => process.is_some_and(|process| comparison.holds(process)),
            Self::Not(expr) => !expr.holds(process),
            Self::All(exprs) => exprs.iter().all(|expr| expr.holds(process)),
            Self::Any(exprs) => exprs.iter().any(|expr| expr.holds(process)),
        }
    }
}

/// As it can be read again: the same words, with the parentheses and quotes that it needs.
impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(comparison) => comparison.write(f, ""),
            Self::Not(expr) => match &**expr {
                Self::Is(comparison @ Comparison { value: Value::Number(..) | Value::Text(_), .. }) => {
                    comparison.write(f, "!")
                }
                expr => write!(f, "not {}", Nested(expr)),
            },
            Self::All(exprs) => join(f, exprs, " and "),
            Self::Any(exprs) => join(f, exprs, " or "),
        }
    }
}

fn join(f: &mut fmt::Formatter<'_>, exprs: &[Expr], word: &str) -> fmt::Result {
    for (index, expr) in exprs.iter().enumerate() {
        write!(f, "{}{}", if index == 0 { "" } else { word }, Nested(expr))?;
    }
    Ok(())
}

/// An expression as a part of another one.
struct Nested<'a>(&'a Expr);

impl fmt::Display for Nested<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Expr::All(_) | Expr::Any(_) => write!(f, "({})", self.0),
            expr => expr.fmt(f),
        }
    }
}

impl Comparison {
    fn write(&self, f: &mut fmt::Formatter<'_>, not: &str) -> fmt::Result {
        let key = self.key.name();
        match &self.value {
            Value::Number(_, written) => write!(f, "{key}{not}={}", quoted(written.as_bytes())),
            Value::Text(text) => write!(f, "{key}{not}={}", quoted(text)),
            Value::Glob(glob) => write!(f, "{key}~{}", quoted(glob.glob().glob().as_bytes())),
        }
    }
}

/// A value as it stands in an expression.
fn quoted(value: &[u8]) -> String {
    let bare = std::str::from_utf8(value).ok().filter(|text| {
        parse::bare_length(text) == text.len() && !text.is_empty() && !RESERVED.contains(text)
    });
    if let Some(text) = bare {
        return text.to_owned();
    }
    let mut text = String::from('"');
    for chunk in value.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '"' | '\\' => text.extend(['\\', letter]),
                letter if letter.is_control() => {
                    push_bytes(&mut text, letter.encode_utf8(&mut [0; 4]).as_bytes())
                }
                letter => text.push(letter),
            }
        }
        push_bytes(&mut text, chunk.invalid());
    }
    text + "\""
}

fn push_bytes(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "\\x{byte:02x}");
    }
}

/// Chooses packets by their processes.
///
/// An expression that is false of no process at all (`name=curl`) *includes*: a packet is kept if it holds of the process
/// at one of its ends. One that is true of no process at all (`not name=sshd`) *excludes*: a packet is kept unless there is
/// a process at one of its ends of which it does not hold. So a packet is kept by an expression or by its
/// opposite, and never by both.
#[derive(Clone, Debug)]
pub struct ProcessFilter {
    expr: Expr,
    excludes: bool,
    /// What was found of each process that was met.
    verdicts: Vec<Option<bool>>,
}

impl ProcessFilter {
    /// A filter that has met no process yet.
    pub fn new(expr: Expr) -> Self {
        let excludes = expr.holds(None);
        Self { expr, excludes, verdicts: Vec::new() }
    }

    /// Looks at all processes of a table, before any packet.
    pub fn learn(&mut self, processes: &ProcessTable) {
        self.verdicts = processes.iter().map(|(_, process)| Some(self.expr.holds(Some(process)))).collect();
    }

    /// Whether a packet with these owners is kept. `processes` is the same table for all packets; a process is looked at
    /// once.
    #[inline]
    pub fn keeps(&mut self, attribution: &Attribution, processes: &ProcessTable) -> bool {
        let Attribution::Known { sender, receiver, .. } = *attribution else { return self.excludes };
        // Where it excludes, all must hold; where it includes, any. So the first that is unlike that decides.
        let excludes = self.excludes;
        let decides = |owner: Owner| self.holds(owner.process, processes) != excludes;
        [sender, receiver].into_iter().flatten().any(decides) != excludes
    }

    #[inline]
    fn holds(&mut self, index: ProcessIndex, processes: &ProcessTable) -> bool {
        match self.verdicts.get(index.0 as usize) {
            Some(Some(verdict)) => *verdict,
            _ => self.look_at(index, processes),
        }
    }

    #[cold]
    fn look_at(&mut self, index: ProcessIndex, processes: &ProcessTable) -> bool {
        let at = index.0 as usize;
        if at >= self.verdicts.len() {
            self.verdicts.resize(at + 1, None);
        }
        let verdict = self.expr.holds(processes.get(index));
        self.verdicts[at] = Some(verdict);
        verdict
    }

    /// Of how many processes the expression says something else now than when they were met: what a file tells of a process
    /// may stand behind its packets.
    pub fn misjudged(&self, processes: &ProcessTable) -> usize {
        let changed = |(index, process)| {
            let before = self.verdicts.get(index as usize).copied().flatten();
            before.is_some_and(|before| before != self.expr.holds(Some(process)))
        };
        processes.iter().filter(|(index, process)| changed((index.0, process))).count()
    }
}

//! From the text of an expression to its meaning, by recursive descent; an error knows its place.

use super::{BadValue, Comparison, Expr, Key, RESERVED};

/// How deep parentheses and `not` may be nested: each level is a call.
const DEEPEST: usize = 100;

/// Why a text is no expression, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}\n  {line}\n  {:column$}^ expected {expected}", "")]
pub struct SyntaxError {
    /// What is wrong.
    pub what: String,
    /// The text, in one line.
    pub line: String,
    /// How many characters of the line stand before the place.
    pub column: usize,
    /// What would be right there.
    pub expected: String,
}

/// Reads an expression. `user_id` tells the id of a user by name.
///
/// # Errors
/// If it is none; the error shows the place.
pub fn parse(text: &str, user_id: &dyn Fn(&str) -> Option<u32>) -> Result<Expr, SyntaxError> {
    let mut parser = Parser { text, at: 0, depth: 0, user_id };
    let expr = parser.any()?;
    parser.skip_space();
    match parser.rest().chars().next() {
        None => Ok(expr),
        Some(')') => Err(parser.error(parser.at, "there is no ( for this )", "`and`, `or` or the end")),
        Some(_) => Err(parser.error(parser.at, "the expression goes on", "`and`, `or` or the end")),
    }
}

struct Parser<'a> {
    text: &'a str,
    /// How many bytes have been read.
    at: usize,
    depth: usize,
    user_id: &'a dyn Fn(&str) -> Option<u32>,
}

impl<'a> Parser<'a> {
    fn any(&mut self) -> Result<Expr, SyntaxError> {
        let mut exprs = vec![self.all()?];
        while self.take_word("or") || self.take("||") {
            exprs.push(self.all()?);
        }
        Ok(if exprs.len() == 1 { exprs.remove(0) } else { Expr::Any(exprs) })
    }

    fn all(&mut self) -> Result<Expr, SyntaxError> {
        let mut exprs = vec![self.one()?];
        while self.take_word("and") || self.take("&&") {
            exprs.push(self.one()?);
        }
        Ok(if exprs.len() == 1 { exprs.remove(0) } else { Expr::All(exprs) })
    }

    fn one(&mut self) -> Result<Expr, SyntaxError> {
        self.skip_space();
        let at = self.at;
        let negates = self.take_word("not") || self.take("!");
        if !negates && !self.take("(") {
            return self.comparison();
        }
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.error(at, "this is nested too deep", "at most 100 levels"));
        }
        let expr = if negates { Expr::Not(Box::new(self.one()?)) } else { self.any()? };
        self.depth -= 1;
        if !negates && !self.take(")") {
            return Err(self.error(self.at, "a ( is not closed", "`and`, `or` or `)`"));
        }
        Ok(expr)
    }

    fn comparison(&mut self) -> Result<Expr, SyntaxError> {
        let key_at = self.at;
        let word = self.word();
        let Some(key) = Key::named(word) else { return Err(self.no_key(key_at, word)) };
        self.at += word.len();
        self.skip_space();
        let operator_at = self.at;
        let Some(operator) = ["!=", "=", "~"].into_iter().find(|operator| self.take(operator)) else {
            return Err(self.error(self.at, "a comparison is missing", "`=`, `!=` or `~`"));
        };
        self.skip_space();
        let value_at = self.at;
        let value = self.value()?;
        let (comparison, at) = match operator {
            // Of a number it is the operator that is wrong.
            "~" => (Comparison::like(key, &value), if key.is_number() { operator_at } else { value_at }),
            _ => (Comparison::equal(key, &value, self.user_id), value_at),
        };
        let comparison =
            comparison.map_err(|BadValue { what, expected }| self.error(at, &what, &expected))?;
        let expr = Expr::Is(comparison);
        Ok(if operator == "!=" { Expr::Not(Box::new(expr)) } else { expr })
    }

    fn no_key(&self, at: usize, word: &str) -> SyntaxError {
        if word.is_empty() || RESERVED.contains(&word) {
            return self.error(at, "a comparison is missing", "one such as name=curl");
        }
        let keys: Vec<&str> = Key::ALL.iter().map(|(name, _)| *name).collect();
        self.error(at, &format!("there is no key `{word}`"), &format!("one of {}", keys.join(", ")))
    }

    /// A value: bare, then every character stands for itself; or in quotes, then a backslash begins an escape.
    fn value(&mut self) -> Result<Vec<u8>, SyntaxError> {
        if let Some(quote @ ('\'' | '"')) = self.rest().chars().next() {
            return self.quoted(quote);
        }
        let value = &self.rest()[..bare_length(self.rest())];
        if value.is_empty() || RESERVED.contains(&value) {
            return Err(self.error(
                self.at,
                "a value is missing",
                "a value, in quotes if it is not a plain word",
            ));
        }
        self.at += value.len();
        Ok(value.as_bytes().to_vec())
    }

    fn quoted(&mut self, quote: char) -> Result<Vec<u8>, SyntaxError> {
        let began = self.at;
        self.at += quote.len_utf8();
        let mut value = Vec::new();
        while let Some(letter) = self.rest().chars().next() {
            if letter == '\\' {
                value.push(self.escape()?);
                continue;
            }
            self.at += letter.len_utf8();
            if letter == quote {
                return Ok(value);
            }
            value.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Err(self.error(began, "these quotes are not closed", &format!("a second {quote}")))
    }

    /// The byte that an escape stands for: `\\`, `\'`, `\"`, or two hexadecimal digits as in `\xff`.
    fn escape(&mut self) -> Result<u8, SyntaxError> {
        let (byte, length) = match self.rest().as_bytes() {
            [_, byte @ (b'\\' | b'\'' | b'"'), ..] => (Some(*byte), 2),
            [_, b'x', high, low, ..] => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                let byte = digit(high).zip(digit(low)).map(|(high, low)| (high * 16 + low) as u8);
                (byte, 4)
            }
            _ => (None, 0),
        };
        self.at += if byte.is_some() { length } else { 0 };
        byte.ok_or_else(|| self.error(self.at, "there is no such escape", r#"one of \\, \', \", \xNN"#))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// The word that begins here.
    fn word(&self) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len());
        &rest[..end]
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        let is_here = self.rest().starts_with(token);
        self.at += if is_here { token.len() } else { 0 };
        is_here
    }

    fn take_word(&mut self, word: &str) -> bool {
        self.skip_space();
        self.word() == word && self.take(word)
    }

    fn error(&self, at: usize, what: &str, expected: &str) -> SyntaxError {
        // One character for one, so that the place stays.
        let visible = |letter: char| if letter.is_control() || letter.is_whitespace() { ' ' } else { letter };
        SyntaxError {
            what: what.to_owned(),
            line: self.text.chars().map(visible).collect(),
            column: self.text[..at].chars().count(),
            expected: expected.to_owned(),
        }
    }
}

/// How many bytes of this text are a bare value.
pub(super) fn bare_length(text: &str) -> usize {
    if text.starts_with(['=', '!', '~']) {
        return 0;
    }
    let ends = |letter: char| letter.is_whitespace() || letter.is_control() || "()'\"&|".contains(letter);
    text.find(ends).unwrap_or(text.len())
}

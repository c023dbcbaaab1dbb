//! The grammar of libvirt's configuration files: `name = value`, one a line or parted by `;`.
//!
//! Values are whole numbers, strings and lists. It is close to TOML but not a subset of it: strings
//! know no escapes and end at the line's end, `;` parts statements, `+5` and `007` are numbers, a key
//! may be set twice and then the first one counts. Hence a reader of its own, which also knows lines.
//! A file comes from an administrator, yet nothing in it may make the reader panic or use much memory.

/// Longest file that is read, in bytes.
const MAX_FILE: usize = 1 << 20;
/// Deepest nesting of lists.
const MAX_DEPTH: usize = 8;

/// What a key is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A whole number.
    Number(i64),
    /// A string, without its quotes.
    Text(String),
    /// Values in brackets.
    List(Vec<Value>),
}

/// One setting of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Key.
    pub name: String,
    /// What it is set to.
    pub value: Value,
    /// Line on which the key stands, counted from 1.
    pub line: usize,
}

/// Where a file is not in the format, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct SyntaxError {
    /// Line, counted from 1.
    pub line: usize,
    /// What was expected.
    pub problem: &'static str,
}

/// Reads a whole file; settings come in the file's order, repeated ones included.
///
/// # Errors
/// At the first place that is not in the format, or when `text` is longer than [`MAX_FILE`].
pub fn parse(text: &str) -> Result<Vec<Entry>, SyntaxError> {
    let mut reader = Reader { rest: text, line: 1 };
    if text.len() > MAX_FILE {
        return Err(reader.wrong("the file is longer than 1 MiB"));
    }
    let mut entries = Vec::new();
    loop {
        reader.skip_space_and_comments();
        if reader.rest.is_empty() {
            return Ok(entries);
        }
        entries.push(reader.statement()?);
    }
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Reader<'a> {
    fn statement(&mut self) -> Result<Entry, SyntaxError> {
        let line = self.line;
        let name = self.name()?.to_owned();
        self.skip_blanks();
        if !self.eat('=') {
            return Err(self.wrong("expected '=' after the key"));
        }
        self.skip_blanks();
        let value = self.value(0)?;
        self.skip_blanks();
        match self.peek() {
            None | Some('\n' | '#') => {}
            Some(';') => self.advance(1),
            Some('\r') if self.rest.starts_with("\r\n") => {}
            Some(_) => return Err(self.wrong("expected the end of the line after the value")),
        }
        Ok(Entry { name, value, line })
    }

    fn name(&mut self) -> Result<&'a str, SyntaxError> {
        if !self.peek().is_some_and(|c| c.is_ascii_alphabetic()) {
            return Err(self.wrong("expected a key, which begins with a letter"));
        }
        Ok(self.take_while(|c| c.is_ascii_alphanumeric() || c == '_'))
    }

    fn value(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        match self.peek() {
            Some('"' | '\'') => self.text(),
            Some('[') => self.list(depth),
            Some('+' | '-' | '0'..='9') => self.number(),
            _ => Err(self.wrong("expected a number, a string in quotes, or a list in brackets")),
        }
    }

    fn number(&mut self) -> Result<Value, SyntaxError> {
        let negative = self.eat('-');
        if !negative {
            self.eat('+');
        }
        let digits = self.take_while(|c| c.is_ascii_digit());
        if digits.is_empty() {
            return Err(self.wrong("expected digits"));
        }
        let sign = if negative { "-" } else { "" };
        format!("{sign}{digits}")
            .parse()
            .map(Value::Number)
            .map_err(|_| self.wrong("the number does not fit into 64 bits"))
    }

    fn text(&mut self) -> Result<Value, SyntaxError> {
        if let Some(rest) = self.rest.strip_prefix(r#"""""#) {
            let end = rest
                .find(r#"""""#)
                .ok_or_else(|| self.wrong("a string in triple quotes does not end"))?;
            let text = &rest[..end];
            self.line += text.matches('\n').count();
            self.rest = &rest[end + 3..];
            return Ok(Value::Text(text.to_owned()));
        }
        let quote = self.peek().unwrap_or('"');
        let body = &self.rest[1..];
        match body.find([quote, '\n']) {
            Some(end) if body[end..].starts_with(quote) => {
                self.advance(end + 2);
                Ok(Value::Text(body[..end].to_owned()))
            }
            _ => Err(self.wrong("a string does not end on its line")),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        if depth == MAX_DEPTH {
            return Err(self.wrong("lists are nested too deeply"));
        }
        self.advance(1);
        let mut items = Vec::new();
        loop {
            self.skip_space_and_comments();
            if self.eat(']') {
                return Ok(Value::List(items));
            }
            items.push(self.value(depth + 1)?);
            self.skip_space_and_comments();
            match self.peek() {
                Some(',') => self.advance(1),
                Some(']') => {}
                None => return Err(self.wrong("a list does not end")),
                Some(_) => return Err(self.wrong("expected ',' or ']' in a list")),
            }
        }
    }

    fn skip_space_and_comments(&mut self) {
        loop {
            let space = self.take_while(char::is_whitespace);
            self.line += space.matches('\n').count();
            if self.peek() != Some('#') {
                return;
            }
            self.take_while(|c| c != '\n');
        }
    }

    fn skip_blanks(&mut self) {
        self.take_while(|c| c == ' ' || c == '\t');
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn eat(&mut self, wanted: char) -> bool {
        let there = self.peek() == Some(wanted);
        if there {
            self.advance(wanted.len_utf8());
        }
        there
    }

    /// Skips `bytes`, which must lie within the rest and end at a character; ASCII at all callers.
    fn advance(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    fn wrong(&self, problem: &'static str) -> SyntaxError {
        SyntaxError {
            line: self.line,
            problem,
        }
    }
}

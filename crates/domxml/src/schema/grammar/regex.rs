//! Regular expressions of XML Schema, as far as libvirt's schema uses them: characters, classes, groups, alternatives, and
//! how often. They are for a whole text. What a text costs is its length times the expression's.

use std::collections::BTreeSet;

/// Most steps of an expression, repetitions written out.
const MOST: usize = 1 << 15;

/// An expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Regex {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// A character of a class.
    One(Class),
    /// Goes on at either place.
    Split(usize, usize),
    Jump(usize),
    End,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Class {
    ranges: Vec<(char, char)>,
    negated: bool,
}

impl Class {
    fn has(&self, c: char) -> bool {
        self.ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != self.negated
    }

    fn of(c: char) -> Self {
        Self {
            ranges: vec![(c, c)],
            negated: false,
        }
    }
}

/// An expression as it is written.
#[derive(Debug, Clone)]
enum Tree {
    One(Class),
    All(Vec<Tree>),
    Either(Vec<Tree>),
    Repeat(Box<Tree>, usize, Option<usize>),
}

impl Regex {
    /// Reads an expression.
    ///
    /// # Errors
    /// It has something that is not understood.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let mut reader = Reader {
            rest: text.chars().collect(),
            at: 0,
        };
        let tree = reader.either(0)?;
        if reader.at != reader.rest.len() {
            return Err(format!("the expression '{text}' ends before its end"));
        }
        let mut steps = Vec::new();
        write(&tree, &mut steps)?;
        steps.push(Step::End);
        Ok(Self { steps })
    }

    /// Whether a whole text fits.
    pub(super) fn fits(&self, text: &str) -> bool {
        let mut places = BTreeSet::new();
        self.reach(0, &mut places);
        for c in text.chars() {
            let mut next = BTreeSet::new();
            for place in &places {
                if let Some(Step::One(class)) = self.steps.get(*place)
                    && class.has(c)
                {
                    self.reach(place + 1, &mut next);
                }
            }
            places = next;
        }
        places
            .iter()
            .any(|place| self.steps.get(*place) == Some(&Step::End))
    }

    /// All places from which a character is read, or the end is reached, from a place on.
    fn reach(&self, from: usize, into: &mut BTreeSet<usize>) {
        let mut open = vec![from];
        while let Some(place) = open.pop() {
            if !into.insert(place) {
                continue;
            }
            match self.steps.get(place) {
                Some(Step::Split(a, b)) => open.extend([*b, *a]),
                Some(Step::Jump(to)) => open.push(*to),
                _ => {}
            }
        }
    }
}

fn write(tree: &Tree, steps: &mut Vec<Step>) -> Result<(), String> {
    if steps.len() > MOST {
        return Err("the expression is too long".to_owned());
    }
    match tree {
        Tree::One(class) => steps.push(Step::One(class.clone())),
        Tree::All(parts) => parts.iter().try_for_each(|part| write(part, steps))?,
        Tree::Either(parts) => write_either(parts, steps)?,
        Tree::Repeat(part, least, most) => {
            for _ in 0..*least {
                write(part, steps)?;
            }
            match most {
                Some(most) => write_up_to(part, most.saturating_sub(*least), steps)?,
                None => {
                    let split = steps.len();
                    steps.push(Step::End);
                    write(part, steps)?;
                    steps.push(Step::Jump(split));
                    steps[split] = Step::Split(split + 1, steps.len());
                }
            }
        }
    }
    Ok(())
}

fn write_either(parts: &[Tree], steps: &mut Vec<Step>) -> Result<(), String> {
    let mut ends = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        if number + 1 == parts.len() {
            write(part, steps)?;
            break;
        }
        let split = steps.len();
        steps.push(Step::End);
        write(part, steps)?;
        ends.push(steps.len());
        steps.push(Step::End);
        steps[split] = Step::Split(split + 1, steps.len());
    }
    let end = steps.len();
    ends.into_iter().for_each(|place| steps[place] = Step::Jump(end));
    Ok(())
}

fn write_up_to(part: &Tree, count: usize, steps: &mut Vec<Step>) -> Result<(), String> {
    let mut splits = Vec::new();
    for _ in 0..count {
        splits.push(steps.len());
        steps.push(Step::End);
        write(part, steps)?;
    }
    let end = steps.len();
    splits
        .into_iter()
        .for_each(|place| steps[place] = Step::Split(place + 1, end));
    Ok(())
}

struct Reader {
    rest: Vec<char>,
    at: usize,
}

impl Reader {
    fn peek(&self) -> Option<char> {
        self.rest.get(self.at).copied()
    }

    fn take(&mut self) -> Result<char, String> {
        let next = self.peek().ok_or("an expression ends too soon")?;
        self.at += 1;
        Ok(next)
    }

    fn eat(&mut self, wanted: char) -> bool {
        let there = self.peek() == Some(wanted);
        self.at += usize::from(there);
        there
    }

    fn either(&mut self, depth: usize) -> Result<Tree, String> {
        const DEEPEST: usize = 100;
        if depth > DEEPEST {
            return Err("an expression is too deep".to_owned());
        }
        let mut parts = vec![self.all(depth)?];
        while self.eat('|') {
            parts.push(self.all(depth)?);
        }
        Ok(Tree::Either(parts))
    }

    fn all(&mut self, depth: usize) -> Result<Tree, String> {
        let mut parts = Vec::new();
        while self.peek().is_some_and(|c| c != '|' && c != ')') {
            let one = self.one(depth)?;
            parts.push(self.repeated(one)?);
        }
        Ok(Tree::All(parts))
    }

    fn one(&mut self, depth: usize) -> Result<Tree, String> {
        Ok(match self.take()? {
            '(' => {
                let inner = self.either(depth + 1)?;
                if !self.eat(')') {
                    return Err("a group is not closed".to_owned());
                }
                inner
            }
            '[' => Tree::One(self.class()?),
            '.' => Tree::One(Class {
                ranges: vec![('\n', '\n'), ('\r', '\r')],
                negated: true,
            }),
            '\\' => Tree::One(self.escape()?),
            c if "*+?{}".contains(c) => return Err(format!("'{c}' follows nothing")),
            c => Tree::One(Class::of(c)),
        })
    }

    fn repeated(&mut self, one: Tree) -> Result<Tree, String> {
        let (least, most) = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => return self.counted(one),
            _ => return Ok(one),
        };
        self.at += 1;
        Ok(Tree::Repeat(Box::new(one), least, most))
    }

    fn counted(&mut self, one: Tree) -> Result<Tree, String> {
        self.at += 1;
        let least = self.number()?.ok_or("a count is missing")?;
        let most = match self.eat(',') {
            true => self.number()?,
            false => Some(least),
        };
        if !self.eat('}') {
            return Err("a count is not closed".to_owned());
        }
        Ok(Tree::Repeat(Box::new(one), least, most))
    }

    fn number(&mut self) -> Result<Option<usize>, String> {
        let mut digits = String::new();
        while let Some(c) = self.peek().filter(char::is_ascii_digit) {
            digits.push(c);
            self.at += 1;
        }
        match digits.as_str() {
            "" => Ok(None),
            digits => digits
                .parse()
                .ok()
                .filter(|number| *number <= MOST)
                .map(Some)
                .ok_or_else(|| format!("the count {digits} is too large")),
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Result<Class, String> {
        let plain = |ranges: &[(char, char)]| Class {
            ranges: ranges.to_vec(),
            negated: false,
        };
        Ok(match self.take()? {
            's' => plain(&[(' ', ' '), ('\t', '\t'), ('\n', '\n'), ('\r', '\r')]),
            'd' => plain(&[('0', '9')]),
            'w' => plain(&[('0', '9'), ('A', 'Z'), ('a', 'z'), ('_', '_')]),
            'n' => Class::of('\n'),
            't' => Class::of('\t'),
            'r' => Class::of('\r'),
            c if c.is_alphanumeric() => return Err(format!("'\\{c}' is not understood")),
            c => Class::of(c),
        })
    }

    fn class(&mut self) -> Result<Class, String> {
        let mut class = Class {
            negated: self.eat('^'),
            ..Class::default()
        };
        loop {
            let from = match self.take()? {
                ']' => return Ok(class),
                '\\' => {
                    let escaped = self.escape()?;
                    match escaped.ranges[..] {
                        [(one, other)] if one == other => one,
                        _ => {
                            class.ranges.extend(escaped.ranges);
                            continue;
                        }
                    }
                }
                c => c,
            };
            let is_range = self.peek() == Some('-') && self.rest.get(self.at + 1) != Some(&']');
            let to = match is_range {
                false => from,
                true => {
                    self.at += 1;
                    match self.take()? {
                        '\\' => self.escape()?.ranges.first().map_or(from, |(c, _)| *c),
                        c => c,
                    }
                }
            };
            class.ranges.push((from, to));
        }
    }
}

//! From the files of a schema to patterns.

use std::collections::{BTreeMap, HashMap};

use xmlform::{Document, Node, ParseFlags};

use super::Grammar;
use super::datatype::Datatype;
use super::pattern::{EMPTY, ElementPattern, Id, NOT_ALLOWED, NameClass, Pattern, Patterns, TEXT};

/// Most files of a schema.
const FILES: usize = 64;
/// Deepest chain of names that stand for names.
const DEPTH: usize = 200;

/// Reads a schema.
///
/// # Errors
/// A file can't be read, or has something that is not understood.
pub(super) fn load(
    file: &str,
    read: &mut dyn FnMut(&str) -> Result<String, String>,
) -> Result<Grammar, String> {
    let mut texts: Vec<(String, String)> = Vec::new();
    let mut wanted = vec![file.to_owned()];
    while let Some(name) = wanted.pop() {
        if texts.iter().any(|(known, _)| *known == name) {
            continue;
        }
        if texts.len() >= FILES {
            return Err(format!("the schema has more than {FILES} files"));
        }
        let text = read(&name)?;
        let document = parsed(&name, &text)?;
        includes(document.root(), &mut wanted);
        texts.push((name, text));
    }
    let mut documents = Vec::with_capacity(texts.len());
    for (name, text) in &texts {
        documents.push((name.as_str(), parsed(name, text)?));
    }
    let mut definitions = Definitions::default();
    collect(&documents, file, &[], &mut definitions)?;
    Compiler {
        documents: &documents,
        scopes: vec![definitions],
        scope: 0,
        patterns: Patterns::new(),
        defined: HashMap::new(),
        open: Vec::new(),
    }
    .finish()
}

fn parsed<'t>(name: &str, text: &'t str) -> Result<Document<'t>, String> {
    Document::parse(text, &[], ParseFlags::NONE).map_err(|error| format!("{name}: {}", error.message))
}

/// The files that a schema includes, those of grammars inside it among them.
fn includes(node: Node<'_>, into: &mut Vec<String>) {
    for child in node.children() {
        match child.name() {
            "include" => into.extend(child.attr("href").map(str::to_owned)),
            _ => includes(child, into),
        }
    }
}

/// What names stand for: pieces that are put together, and how.
#[derive(Default)]
struct Definitions<'d> {
    by_name: BTreeMap<&'d str, Definition<'d>>,
    start: Option<Node<'d>>,
}

#[derive(Clone, Default)]
struct Definition<'d> {
    pieces: Vec<Node<'d>>,
    interleaved: bool,
}

/// The definitions of a file and of those that it includes; but for names that whoever includes it has defined anew.
fn collect<'d>(
    documents: &'d [(&str, Document<'_>)],
    file: &str,
    replaced: &[&str],
    into: &mut Definitions<'d>,
) -> Result<(), String> {
    let (_, document) = documents
        .iter()
        .find(|(name, _)| *name == file)
        .ok_or_else(|| format!("{file} was not read"))?;
    collect_in(documents, document.root(), replaced, into)
}

/// The definitions of one grammar.
fn collect_in<'d>(
    documents: &'d [(&str, Document<'_>)],
    grammar: Node<'d>,
    replaced: &[&str],
    into: &mut Definitions<'d>,
) -> Result<(), String> {
    for node in grammar.children() {
        match node.name() {
            "include" => {
                let own: Vec<&str> = node.children().filter_map(|define| define.attr("name")).collect();
                let mut hidden = own.clone();
                hidden.extend(replaced);
                collect(documents, node.attr("href").unwrap_or_default(), &hidden, into)?;
                for define in node.children_named("define") {
                    define_name(define, replaced, into);
                }
            }
            "define" => define_name(node, replaced, into),
            "start" => {
                into.start.get_or_insert(node);
            }
            other => return Err(format!("{}: <{other}> is not understood", node.path())),
        }
    }
    Ok(())
}

fn define_name<'d>(node: Node<'d>, replaced: &[&str], into: &mut Definitions<'d>) {
    let Some(name) = node.attr("name").filter(|name| !replaced.contains(name)) else {
        return;
    };
    let definition = into.by_name.entry(name).or_default();
    definition.pieces.push(node);
    definition.interleaved |= node.attr("combine") == Some("interleave");
}

struct Compiler<'c, 'd> {
    documents: &'d [(&'c str, Document<'c>)],
    /// The definitions of the schema, and of grammars inside it: names mean others there.
    scopes: Vec<Definitions<'d>>,
    /// The one whose names are meant.
    scope: usize,
    patterns: Patterns,
    defined: HashMap<(usize, &'d str), Id>,
    /// Elements whose content is still to be put together, by their places, with what their names mean.
    open: Vec<(u32, usize, Node<'d>)>,
}

impl<'d> Compiler<'_, 'd> {
    fn finish(mut self) -> Result<Grammar, String> {
        let start = self.start(0)?;
        while let Some((place, scope, node)) = self.open.pop() {
            self.scope = scope;
            let content = node.children().filter(|child| !is_name_class(*child));
            let content = self.group(content, 0)?;
            if let Some(element) = self.patterns.elements.get_mut(place as usize) {
                element.content = content;
            }
        }
        Ok(Grammar {
            patterns: self.patterns,
            start,
        })
    }

    /// What a grammar begins with.
    fn start(&mut self, depth: usize) -> Result<Id, String> {
        let start = self.scopes[self.scope].start.ok_or("the schema has no start")?;
        self.group(start.children(), depth)
    }

    /// A grammar inside another: its names are its own.
    fn inner(&mut self, node: Node<'d>, depth: usize) -> Result<Id, String> {
        let mut definitions = Definitions::default();
        collect_in(self.documents, node, &[], &mut definitions)?;
        let outer = self.scope;
        self.scope = self.scopes.len();
        self.scopes.push(definitions);
        let start = self.start(depth);
        self.scope = outer;
        start
    }

    fn group(&mut self, nodes: impl Iterator<Item = Node<'d>>, depth: usize) -> Result<Id, String> {
        self.joined(nodes, depth, EMPTY, Patterns::group)
    }

    /// The patterns of nodes joined two by two, from the last to the first.
    fn joined(
        &mut self,
        nodes: impl Iterator<Item = Node<'d>>,
        depth: usize,
        none: Id,
        join: fn(&mut Patterns, Id, Id) -> Id,
    ) -> Result<Id, String> {
        let mut parts = Vec::new();
        for node in nodes {
            parts.push(self.pattern(node, depth + 1)?);
        }
        let last = parts.pop().unwrap_or(none);
        let mut joined = last;
        while let Some(part) = parts.pop() {
            joined = join(&mut self.patterns, part, joined);
        }
        Ok(joined)
    }

    fn pattern(&mut self, node: Node<'d>, depth: usize) -> Result<Id, String> {
        if depth > DEPTH {
            return Err(format!("{} refers to itself", node.path()));
        }
        let children = || node.children();
        Ok(match node.name() {
            "ref" => self.reference(node, depth)?,
            "grammar" => self.inner(node, depth)?,
            "element" => self.element(node),
            "attribute" => self.attribute(node, depth)?,
            "group" => self.group(children(), depth)?,
            "choice" => self.joined(children(), depth, NOT_ALLOWED, Patterns::choice)?,
            "interleave" => self.joined(children(), depth, EMPTY, Patterns::interleave)?,
            "optional" => {
                let inner = self.group(children(), depth)?;
                self.patterns.optional(inner)
            }
            "zeroOrMore" => {
                let inner = self.group(children(), depth)?;
                let some = self.patterns.one_or_more(inner);
                self.patterns.optional(some)
            }
            "oneOrMore" => {
                let inner = self.group(children(), depth)?;
                self.patterns.one_or_more(inner)
            }
            "list" => {
                let inner = self.group(children(), depth)?;
                self.patterns.intern(Pattern::List(inner))
            }
            "text" => TEXT,
            "empty" => EMPTY,
            "notAllowed" => NOT_ALLOWED,
            "value" => {
                let place = self.patterns.word(node.text().to_owned());
                self.patterns.intern(Pattern::Value(place))
            }
            "data" => self.data(node, depth)?,
            other => return Err(format!("{}: <{other}> is not understood", node.path())),
        })
    }

    fn reference(&mut self, node: Node<'d>, depth: usize) -> Result<Id, String> {
        let name = node.attr("name").unwrap_or_default().trim();
        if let Some(known) = self.defined.get(&(self.scope, name)) {
            return Ok(*known);
        }
        let definition = self.scopes[self.scope]
            .by_name
            .get(name)
            .cloned()
            .ok_or_else(|| format!("'{name}' is not defined"))?;
        let mut pieces = Vec::new();
        for piece in &definition.pieces {
            pieces.push(self.group(piece.children(), depth)?);
        }
        let mut all = pieces.pop().unwrap_or(NOT_ALLOWED);
        while let Some(piece) = pieces.pop() {
            all = match definition.interleaved {
                true => self.patterns.interleave(piece, all),
                false => self.patterns.choice(piece, all),
            };
        }
        self.defined.insert((self.scope, name), all);
        Ok(all)
    }

    fn element(&mut self, node: Node<'d>) -> Id {
        let name = self.patterns.name(name_class(node, namespace(node)));
        let place = u32::try_from(self.patterns.elements.len()).unwrap_or(u32::MAX);
        self.patterns.elements.push(ElementPattern {
            name,
            content: NOT_ALLOWED,
        });
        self.open.push((place, self.scope, node));
        self.patterns.intern(Pattern::Element(place))
    }

    fn attribute(&mut self, node: Node<'d>, depth: usize) -> Result<Id, String> {
        let name = self
            .patterns
            .name(name_class(node, node.attr("ns").unwrap_or_default()));
        let mut content = node.children().filter(|child| !is_name_class(*child)).peekable();
        let value = match content.peek() {
            None => TEXT,
            Some(_) => self.group(content, depth)?,
        };
        Ok(self.patterns.attribute(name, value))
    }

    fn data(&mut self, node: Node<'d>, depth: usize) -> Result<Id, String> {
        let params = node.children_named("param");
        let params = params.map(|param| (param.attr("name").unwrap_or_default(), param.text()));
        let datatype = Datatype::new(node.attr("type").unwrap_or_default(), params)
            .map_err(|error| format!("{}: {error}", node.path()))?;
        let place = self.patterns.datatype(datatype);
        let Some(except) = node.child("except") else {
            return Ok(self.patterns.intern(Pattern::Data(place)));
        };
        let except = self.joined(except.children(), depth, NOT_ALLOWED, Patterns::choice)?;
        Ok(self.patterns.intern(Pattern::DataExcept(place, except)))
    }
}

fn is_name_class(node: Node<'_>) -> bool {
    matches!(node.name(), "anyName" | "name" | "nsName")
}

fn name_class(node: Node<'_>, uri: &str) -> NameClass {
    match node.attr("name").or(node.child("name").map(Node::text)) {
        Some(name) => NameClass::Name(uri.to_owned(), name.trim().to_owned()),
        None => NameClass::Any,
    }
}

/// Which namespace an element of the schema is in: as the nearest says around it.
fn namespace<'d>(node: Node<'d>) -> &'d str {
    let around = std::iter::successors(Some(node), |node| node.parent());
    around
        .filter_map(|node| node.attr("ns"))
        .next()
        .unwrap_or_default()
}

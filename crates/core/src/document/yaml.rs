//! YAML as a tree in which every node knows its bytes.
//!
//! Built from the parser's events and not by its own loader, because diagnostics need what a
//! loader throws away: the place of each key, and keys that stand twice.

use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::{Places, json};

/// Deeper nesting than any document needs that people write for us, and than any that programs write.
const MAX_DEPTH: usize = 16;
const FOREIGN_DEPTH: usize = 128;

/// A node and the bytes that it takes up.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) span: Range<usize>,
}

#[derive(Debug)]
pub(crate) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`, unquoted.
    Bool(bool),
    /// Any other scalar, numbers included: what they mean is for the reader to say.
    Text(String),
    Sequence(Vec<Node>),
    /// In the order of the text, with whatever stands twice.
    Mapping(Vec<(Node, Node)>),
}

impl Value {
    /// What it is, for "expected …, found …".
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Text(_) => "text",
            Self::Sequence(_) => "a list",
            Self::Mapping(_) => "a mapping",
        }
    }
}

/// What stops the reading of a text as YAML.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) message: String,
    pub(crate) help: Option<String>,
    pub(crate) span: Range<usize>,
}

/// A document.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) root: Node,
    /// The first thing in it that is not read, of a document of others'; the tree has nothing there.
    pub(crate) odd: Option<Refusal>,
}

/// A collection whose end has not been met.
struct Open {
    start: usize,
    /// Where the last of its items ends.
    last: Option<usize>,
    held: Held,
}

/// What has been met of a collection.
enum Held {
    Sequence(Vec<Node>),
    /// Of a list that is too long to be held, nothing: its items are handed on.
    Nothing,
    Mapping {
        pairs: Vec<(Node, Node)>,
        /// The key whose value is still to come.
        key: Option<Node>,
    },
}

/// A list that is too long to be held as a tree: its items are handed on one by one.
struct Long<'k, 'h> {
    /// The key of the document's own mapping under which it stands, the first time.
    key: &'k str,
    hand: &'h mut dyn FnMut(Node),
}

impl Long<'_, '_> {
    /// Is it this one, which begins while these collections are open?
    fn begins(&self, open: &[Open]) -> bool {
        let [
            Open {
                held:
                    Held::Mapping {
                        pairs,
                        key: Some(key),
                    },
                ..
            },
        ] = open
        else {
            return false;
        };
        let is = |node: &Node| matches!(&node.value, Value::Text(key) if key == self.key);
        is(key) && !pairs.iter().any(|(key, _)| is(key))
    }
}

/// Read one document; `None` if there is none. `what` is what it ought to be, such as `policy`.
///
/// The items of the list under the top-level key `long` are handed to `hand` as they are met, and the list is
/// empty in what is returned: as a tree, the rules of a large policy would take up more than all else. If the
/// text is refused in the end, what was handed on before is nothing.
pub(crate) fn read(
    text: &str,
    places: &Places<'_>,
    what: &str,
    long: &str,
    hand: &mut dyn FnMut(Node),
) -> Result<Option<Node>, Refusal> {
    let mut documents = Documents::new(text, places, what, 1);
    let mut long = Long { key: long, hand };
    let first = documents.document(Some(&mut long))?;
    // A second one, or what stands behind the first and is no YAML.
    documents.document(None)?;
    Ok(first.map(|document| document.root))
}

/// The documents of a text, one after the other. After a refusal nothing follows: where a text is not YAML,
/// nobody can say where its next document begins.
pub(crate) struct Documents<'a> {
    text: &'a str,
    places: &'a Places<'a>,
    what: &'a str,
    most: usize,
    /// Others wrote it: what is not read of a document takes nothing from those behind it.
    foreign: bool,
    parser: Parser<'a, StrInput<'a>>,
    begun: usize,
    ended: bool,
}

impl<'a> Documents<'a> {
    /// `most` is how many there may be.
    pub(crate) fn new(text: &'a str, places: &'a Places<'a>, what: &'a str, most: usize) -> Self {
        Self {
            text,
            places,
            what,
            most,
            foreign: false,
            parser: Parser::new_from_str(text),
            begun: 0,
            ended: false,
        }
    }

    /// Of a file that was written for others, and holds what is none of ours.
    pub(crate) fn foreign(text: &'a str, places: &'a Places<'a>, what: &'a str) -> Self {
        Self {
            foreign: true,
            ..Self::new(text, places, what, usize::MAX)
        }
    }
}

impl Iterator for Documents<'_> {
    type Item = Result<Document, Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let mut not_json = None;
        if self.begun == 0 && json::may_be(self.text) {
            match json::read(self.text, self.places, self.what, self.depth()) {
                Ok(document) => {
                    self.ended = true;
                    return Some(match document.odd {
                        Some(odd) if !self.foreign => Err(odd),
                        odd => Ok(Document { odd, ..document }),
                    });
                }
                Err(refusal) => not_json = Some(refusal),
            }
        }
        let next = self.document(None).transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        // What is neither is told as what it was meant to be.
        let meant = not_json.filter(|_| json::was_meant(self.text));
        match (next, meant) {
            (Some(Err(_)), Some(meant)) => Some(Err(meant)),
            (next, _) => next,
        }
    }
}

impl Documents<'_> {
    fn depth(&self) -> usize {
        if self.foreign {
            FOREIGN_DEPTH
        } else {
            MAX_DEPTH
        }
    }

    fn document(
        &mut self,
        mut long: Option<&mut Long<'_, '_>>,
    ) -> Result<Option<Document>, Refusal> {
        let (text, places, what) = (self.text, self.places, self.what);
        let (foreign, depth) = (self.foreign, self.depth());
        let mut odd: Option<Refusal> = None;
        // Collections that lie too deep and have begun.
        let mut skipped = 0usize;
        let bytes =
            |span: Span| places.byte_of(span.start.index())..places.byte_of(span.end.index());
        let mut open: Vec<Open> = Vec::new();
        let mut root: Option<Node> = None;
        while let Some(next) = self.parser.next_event() {
            let (event, span) = next.map_err(|error| syntax_error(text, places, &error))?;
            let span = bytes(span);
            let refuse = |message: String, help| Refusal {
                message,
                help: Option::map(help, str::to_owned),
                span: span.clone(),
            };
            if is_tagged(&event) {
                let message = format!("tags (`!name`) are not supported in a {what}");
                noted(
                    foreign,
                    &mut odd,
                    refuse(message, Some("write the plain value")),
                )?;
            }
            let done = match event {
                Event::StreamStart | Event::Nothing => continue,
                Event::DocumentEnd | Event::StreamEnd => {
                    return Ok(root.map(|root| Document { root, odd }));
                }
                Event::DocumentStart(_) => {
                    self.begun += 1;
                    if self.begun > self.most {
                        return Err(refuse(
                            format!("a second document begins here, a {what} is one document"),
                            Some("put it in a file of its own, or join its rules to the first"),
                        ));
                    }
                    continue;
                }
                Event::SequenceEnd | Event::MappingEnd if skipped > 0 => {
                    skipped -= 1;
                    if skipped > 0 {
                        continue;
                    }
                    Node {
                        value: Value::Null,
                        span,
                    }
                }
                Event::Alias(_) | Event::Scalar(..) if skipped > 0 => continue,
                Event::Alias(_) => {
                    let message = format!("aliases (`*name`) are not supported in a {what}");
                    let help =
                        "write the value out; quote it if it is a pattern, as in \"*.example.com\"";
                    noted(foreign, &mut odd, refuse(message, Some(help)))?;
                    Node {
                        value: Value::Null,
                        span,
                    }
                }
                Event::Scalar(value, style, ..) => Node {
                    value: scalar(value.into_owned(), style),
                    span,
                },
                Event::SequenceStart(..) | Event::MappingStart(..) => {
                    if skipped > 0 || open.len() >= depth {
                        let message = format!("nested more deeply than any {what} is");
                        noted(foreign, &mut odd, refuse(message, None))?;
                        skipped += 1;
                        continue;
                    }
                    let held = if matches!(event, Event::MappingStart(..)) {
                        Held::Mapping {
                            pairs: Vec::new(),
                            key: None,
                        }
                    } else if long.as_ref().is_some_and(|long| long.begins(&open)) {
                        Held::Nothing
                    } else {
                        Held::Sequence(Vec::new())
                    };
                    open.push(Open {
                        start: span.start,
                        last: None,
                        held,
                    });
                    continue;
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    let Some(Open { start, last, held }) = open.pop() else {
                        continue;
                    };
                    // A block collection's end event lies after the blank lines that follow it.
                    let end = match last {
                        Some(last) if span.is_empty() => last,
                        _ => span.end,
                    }
                    .max(start);
                    Node {
                        value: match held {
                            Held::Sequence(items) => Value::Sequence(items),
                            Held::Nothing => Value::Sequence(Vec::new()),
                            Held::Mapping { pairs, .. } => Value::Mapping(pairs),
                        },
                        span: start..end,
                    }
                }
            };
            let Some(parent) = open.last_mut() else {
                root = Some(done);
                continue;
            };
            parent.last = Some(done.span.end);
            match &mut parent.held {
                Held::Sequence(items) => items.push(done),
                Held::Nothing => {
                    if let Some(long) = &mut long {
                        (long.hand)(done);
                    }
                }
                Held::Mapping { pairs, key } => match key.take() {
                    Some(key) => pairs.push((key, done)),
                    None => *key = Some(done),
                },
            }
        }
        Ok(root.map(|root| Document { root, odd }))
    }
}

/// What is not read ends the reading of a document that was written for us, and is left out of others'.
fn noted(foreign: bool, odd: &mut Option<Refusal>, refusal: Refusal) -> Result<(), Refusal> {
    if !foreign {
        return Err(refusal);
    }
    odd.get_or_insert(refusal);
    Ok(())
}

fn is_tagged(event: &Event<'_>) -> bool {
    matches!(
        event,
        Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, Some(_))
            | Event::MappingStart(_, Some(_))
    )
}

/// The parser's words, except for the one mistake that everyone makes: `*.example.com` without quotes is an
/// alias to YAML.
fn syntax_error(text: &str, places: &Places<'_>, error: &ScanError) -> Refusal {
    let at = places.byte_of(error.marker().index());
    if error.info().contains("alias") || error.info().contains("anchor") {
        let line = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let rest = text[line..].lines().next().unwrap_or_default();
        // The last `*` that begins a word and is not behind the place of the error.
        let star = rest
            .match_indices('*')
            .map(|(offset, _)| line + offset)
            .rfind(|&star| star <= at && text[line..star].ends_with([' ', '[', '{', ',']));
        if let Some(star) = star {
            let word = text[star..]
                .split([' ', '\n', '\r', ',', '}', ']'])
                .next()
                .unwrap_or("*");
            return Refusal {
                message: format!(
                    "{word:?} is not in quotes, and to YAML an unquoted `*` begins an alias"
                ),
                help: Some(format!("write \"{word}\" with the quotes")),
                span: star..star + word.len(),
            };
        }
    }
    Refusal {
        message: format!("not valid YAML: {}", error.info()),
        help: None,
        span: at..at,
    }
}

fn scalar(text: String, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::Text(text);
    }
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => Value::Text(text),
    }
}

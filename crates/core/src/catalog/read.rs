//! From YAML to what each file says of its services.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::{At, Catalog, Endpoint, Phase, Place, Strength, join};
use crate::document::yaml::Documents;
use crate::document::{Diagnostic, Node, Places, Reader, Severity, Value};
use crate::name::Breadth;
use crate::policy::{API_VERSION, Target, target};
use crate::tables::Protocol;

/// Longest file that is read.
pub const MAX_BYTES: usize = 16 << 20;

const KEYS: &[&str] = &[
    "apiVersion",
    "kind",
    "name",
    "owner",
    "tier",
    "provides",
    "needs",
];
const IMPORT_KEYS: &[&str] = &["apiVersion", "kind", "from", "services", "needs"];
const IMPORTED_KEYS: &[&str] = &["name", "owner", "tier", "provides"];
const IMPORTED_NEED_KEYS: &[&str] = &["by", "service", "at"];
const NEED_KEYS: &[&str] = &["service", "for", "strength", "reason"];
const ENDPOINT_KEYS: &[&str] = &["endpoint", "protocol"];
const IMPORT: &str = "such a document is written by `blackstart graph import`";
const START: &str = "a service begins with `apiVersion: blackstart.dev/v1` and `kind: Service`";
const PROVIDES: &str = "a service provides names, addresses or CIDRs, each optionally with `:port` or `:first-last`, and unix sockets as `unix:/path`";
const NEEDS: &str =
    "write one `- NAME` a line, or `- { service: NAME, for: run, strength: hard, reason: … }`";

/// What was read.
#[derive(Debug)]
pub struct Reading {
    /// The catalog, of everything that could be read.
    pub catalog: Catalog,
    /// What is wrong, in the order of the files and of their text.
    pub diagnostics: Vec<Diagnostic>,
    /// Something is missing from the catalog: at least one of the diagnostics is an error.
    pub partial: bool,
}

/// Read a catalog: pairs of a file's name, which is only for the diagnostics, and its text.
pub fn read(files: &[(&str, &str)]) -> Reading {
    let places: Vec<Places<'_>> = files
        .iter()
        .map(|(_, text)| Places::new(if text.len() > MAX_BYTES { "" } else { text }))
        .collect();
    let mut readers: Vec<Reader<'_>> = files
        .iter()
        .zip(&places)
        .map(|((file, _), places)| Reader::new(file, places))
        .collect();
    let mut drafts = Vec::new();
    let mut lacking = false;
    for (number, (reader, (_, text))) in readers.iter_mut().zip(files).enumerate() {
        let mut file = File {
            number,
            name: Arc::from(reader.file),
            reader,
        };
        lacking |= !file.read(text, &mut drafts);
    }
    let catalog = join::join(drafts, &mut readers, lacking);
    let mut diagnostics = Vec::new();
    for mut reader in readers {
        reader
            .diagnostics
            .sort_by_key(|d| (d.span.start, d.span.end));
        diagnostics.append(&mut reader.diagnostics);
    }
    Reading {
        catalog,
        partial: diagnostics.iter().any(|d| d.severity == Severity::Error),
        diagnostics,
    }
}

/// A service as one document has it. With every value, where it stands.
pub(super) struct Draft {
    /// Index of the file.
    pub(super) file: usize,
    pub(super) name: String,
    pub(super) span: Range<usize>,
    pub(super) place: Place,
    pub(super) owner: Option<String>,
    pub(super) tier: Option<u32>,
    pub(super) provides: Vec<DraftEndpoint>,
    pub(super) needs: Vec<DraftNeed>,
    /// A program found it; what a person wrote goes before.
    pub(super) imported: bool,
}

/// What a service provides.
pub(super) struct DraftEndpoint {
    pub(super) endpoint: Endpoint,
    /// Index of the file.
    pub(super) file: usize,
    pub(super) span: Range<usize>,
    pub(super) imported: bool,
}

/// A need whose service has not been looked up.
pub(super) struct DraftNeed {
    pub(super) service: String,
    /// Index of the file.
    pub(super) file: usize,
    pub(super) span: Range<usize>,
    /// From what kind of thing it was imported, if it was.
    pub(super) format: Option<Arc<str>>,
    pub(super) phase: Phase,
    pub(super) claim: Option<Strength>,
    pub(super) reason: Option<String>,
    pub(super) place: Place,
}

/// The reading of one file.
struct File<'r, 'a> {
    number: usize,
    name: Arc<str>,
    reader: &'r mut Reader<'a>,
}

impl File<'_, '_> {
    /// False if not every document of the file gave a service.
    fn read(&mut self, text: &str, drafts: &mut Vec<Draft>) -> bool {
        if text.len() > MAX_BYTES {
            self.reader.error(
                &(0..0),
                format!("the file is larger than {} MiB", MAX_BYTES >> 20),
                Some("split it: a catalog may have any number of files".to_owned()),
            );
            return false;
        }
        let places = self.reader.places;
        let mut whole = true;
        let documents = Documents::new(text, places, "catalog", usize::MAX);
        for document in documents.map(|document| document.map(|it| it.root)) {
            match document {
                // What follows the last `---`, or stands before the first, is often nothing but comments.
                Ok(root) if matches!(root.value, Value::Null) => {}
                Ok(root) if is_import(&root) => whole &= self.import(root, drafts),
                Ok(root) => {
                    let draft = self.service(root);
                    whole &= draft.is_some();
                    drafts.extend(draft);
                }
                Err(refusal) => {
                    self.reader
                        .error(&refusal.span, refusal.message, refusal.help);
                    return false;
                }
            }
        }
        whole
    }

    fn place(&self, span: &Range<usize>) -> Place {
        let (line, column) = self.reader.places.line_and_column(span.start);
        Place {
            file: Arc::clone(&self.name),
            line,
            column,
        }
    }

    fn service(&mut self, root: Node) -> Option<Draft> {
        let start = root.span.start;
        let pairs = self.reader.mapping(root, START)?;
        // A document of another kind has other keys: to complain of each would say nothing more.
        let written = |wanted: &str| {
            pairs
                .iter()
                .find(|(key, _)| matches!(&key.value, Value::Text(text) if text == wanted))
                .map(|(_, value)| value)
        };
        let version = self
            .reader
            .says("apiVersion", API_VERSION, written("apiVersion"), start);
        // The other kind that there is, `Import`, no person writes.
        let kind = self.reader.says("kind", "Service", written("kind"), start);
        if !version || !kind {
            return None;
        }
        let mut name = None;
        let mut owner = None;
        let mut tier = None;
        let mut provides = Vec::new();
        let mut needs = Vec::new();
        for (key, _, node) in self.reader.keys(pairs, KEYS, "a service") {
            match key {
                "name" => {
                    let text = self.service_name(key, &node);
                    name = Some((text, node.span));
                }
                "owner" => owner = self.reader.text(key, &node).map(str::to_owned),
                "tier" => tier = self.tier(&node),
                "provides" => provides = self.endpoints(key, node, false),
                "needs" => {
                    for item in self.reader.list(key, node, NEEDS) {
                        needs.extend(self.need(item));
                    }
                }
                _ => {}
            }
        }
        let Some((name, span)) = name else {
            let help = "write `name: ` and what the service is called".to_owned();
            self.reader
                .error(&(start..start), "the service has no name", Some(help));
            return None;
        };
        Some(Draft {
            file: self.number,
            name: name?,
            place: self.place(&span),
            span,
            owner,
            tier,
            provides,
            needs,
            imported: false,
        })
    }

    fn endpoints(&mut self, key: &str, node: Node, imported: bool) -> Vec<DraftEndpoint> {
        let items = self.reader.list(key, node, PROVIDES);
        let endpoints = items.into_iter().filter_map(|item| {
            let (endpoint, span) = self.endpoint(item)?;
            Some(DraftEndpoint {
                endpoint,
                file: self.number,
                span,
                imported,
            })
        });
        endpoints.collect()
    }

    /// What a program found. False if something of it could not be read.
    fn import(&mut self, root: Node, drafts: &mut Vec<Draft>) -> bool {
        let start = root.span.start;
        let errors = self.reader.diagnostics.len();
        let Some(pairs) = self.reader.mapping(root, IMPORT) else {
            return false;
        };
        let mut format: Arc<str> = Arc::from("");
        let mut found: Vec<Draft> = Vec::new();
        let mut needs = Vec::new();
        let mut version = None;
        for (key, _, node) in self.reader.keys(pairs, IMPORT_KEYS, "an import") {
            match key {
                "apiVersion" => version = Some(node),
                "from" => format = self.reader.text(key, &node).unwrap_or_default().into(),
                "services" => {
                    for item in self.reader.list(key, node, IMPORT) {
                        found.extend(self.imported(item));
                    }
                }
                "needs" => needs = self.reader.list(key, node, IMPORT),
                _ => {}
            }
        }
        if !self
            .reader
            .says("apiVersion", API_VERSION, version.as_ref(), start)
        {
            return false;
        }
        let by_name: HashMap<String, usize> = found
            .iter()
            .enumerate()
            .map(|(index, draft)| (draft.name.clone(), index))
            .collect();
        for item in needs {
            let Some((by, need)) = self.imported_need(item, &format) else {
                continue;
            };
            match by_name.get(&by) {
                Some(index) => found[*index].needs.push(need),
                None => self.reader.error(
                    &need.span,
                    format!("{by:?} is not among the services of this import"),
                    Some(IMPORT.to_owned()),
                ),
            }
        }
        drafts.append(&mut found);
        self.reader.diagnostics.len() == errors
    }

    fn imported(&mut self, item: Node) -> Option<Draft> {
        let start = item.span.start;
        let pairs = self.reader.mapping(item, IMPORT)?;
        let mut draft = Draft {
            file: self.number,
            name: String::new(),
            span: start..start,
            place: self.place(&(start..start)),
            owner: None,
            tier: None,
            provides: Vec::new(),
            needs: Vec::new(),
            imported: true,
        };
        for (key, _, node) in self.reader.keys(pairs, IMPORTED_KEYS, "a service") {
            match key {
                "name" => {
                    draft.name = self.service_name(key, &node)?;
                    draft.place = self.place(&node.span);
                    draft.span = node.span;
                }
                "owner" => draft.owner = self.reader.text(key, &node).map(str::to_owned),
                "tier" => draft.tier = self.tier(&node),
                "provides" => draft.provides = self.endpoints(key, node, true),
                _ => {}
            }
        }
        if draft.name.is_empty() {
            let help = Some(IMPORT.to_owned());
            self.reader
                .error(&(start..start), "the service has no name", help);
            return None;
        }
        Some(draft)
    }

    /// A need, and whose it is.
    fn imported_need(&mut self, item: Node, format: &Arc<str>) -> Option<(String, DraftNeed)> {
        let span = item.span.clone();
        let pairs = self.reader.mapping(item, IMPORT)?;
        let (mut by, mut service, mut place) = (None, None, None);
        for (key, _, node) in self.reader.keys(pairs, IMPORTED_NEED_KEYS, "a need") {
            let text = self.reader.text(key, &node)?.to_owned();
            match key {
                "by" => by = Some(text),
                "service" => service = Some(text),
                _ => place = original(&text),
            }
        }
        let (Some(by), Some(service)) = (by, service) else {
            let message = "an imported need says `by` whom it is and of which `service`";
            self.reader.error(&span, message, Some(IMPORT.to_owned()));
            return None;
        };
        let need = DraftNeed {
            service,
            file: self.number,
            // Where it was found says more than where it was written down.
            place: place.unwrap_or_else(|| self.place(&span)),
            span,
            format: Some(Arc::clone(format)),
            phase: Phase::Run,
            claim: None,
            reason: None,
        };
        Some((by, need))
    }

    /// Names are typed in lists with commas, and printed in sentences.
    fn service_name(&mut self, key: &str, node: &Node) -> Option<String> {
        let text = self.reader.text(key, node)?;
        let wrong = text
            .chars()
            .find(|&c| c == ',' || c.is_whitespace() || c.is_control());
        let message = match wrong {
            Some(wrong) => format!("{wrong:?} cannot stand in a service's name"),
            None if text.is_empty() => "the service's name is empty".to_owned(),
            None => return Some(text.to_owned()),
        };
        let help = "letters, digits, `-`, `_`, `.` and `/` do".to_owned();
        self.reader.error(&node.span, message, Some(help));
        None
    }

    fn tier(&mut self, node: &Node) -> Option<u32> {
        let text = self.reader.text("tier", node)?;
        match text.parse::<u32>() {
            Ok(tier) if tier > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Some(tier),
            _ => {
                let help = "write 1 for the most critical, 2 for the next, and so on".to_owned();
                self.reader.error(
                    &node.span,
                    format!("`tier` cannot be {text:?}, it is a whole number from 1 on"),
                    Some(help),
                );
                None
            }
        }
    }

    fn endpoint(&mut self, item: Node) -> Option<(Endpoint, Range<usize>)> {
        let mut protocol = None;
        let node = match item.value {
            Value::Mapping(pairs) => {
                let mut endpoint = None;
                for (key, _, node) in self.reader.keys(pairs, ENDPOINT_KEYS, "an endpoint") {
                    if key == "protocol" {
                        let protocols = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
                        protocol = self.reader.choice(key, &node, &protocols);
                    } else {
                        endpoint = Some(node);
                    }
                }
                let Some(endpoint) = endpoint else {
                    let help = "write `{ endpoint: 10.0.0.0/8:53, protocol: udp }`".to_owned();
                    let at = item.span.start..item.span.start;
                    self.reader.error(&at, "`endpoint` is missing", Some(help));
                    return None;
                };
                endpoint
            }
            value => Node {
                value,
                span: item.span,
            },
        };
        let text = self.reader.text("provides", &node)?;
        let at = match address(text) {
            Ok(At::Net { target, ports, .. }) => At::Net {
                target,
                ports,
                protocol,
            },
            Ok(at @ At::Unix(_)) if protocol.is_none() => at,
            Ok(At::Unix(_)) => {
                let help = Some("remove `protocol`".to_owned());
                self.reader
                    .error(&node.span, "a unix socket has no protocol", help);
                return None;
            }
            Err((message, help)) => {
                self.reader.error(&node.span, message, Some(help));
                return None;
            }
        };
        if let At::Net {
            target: Target::Name(pattern),
            ..
        } = &at
            && let Breadth::Strangers { suffix } = pattern.breadth()
        {
            let suffix = match suffix.as_str() {
                "." => "the root".to_owned(),
                suffix => format!("the public suffix `{suffix}`"),
            };
            self.reader.warning(
                &node.span,
                format!("`{text}` lies at or above {suffix}, so it takes in names of strangers"),
                Some(
                    "provide the names that are the service's own, such as `.example.com`"
                        .to_owned(),
                ),
            );
        }
        let endpoint = Endpoint {
            at,
            text: text.to_owned(),
            place: self.place(&node.span),
        };
        Some((endpoint, node.span))
    }

    fn need(&mut self, item: Node) -> Option<DraftNeed> {
        let mut need = DraftNeed {
            service: String::new(),
            file: self.number,
            span: item.span.clone(),
            format: None,
            phase: Phase::Run,
            claim: None,
            reason: None,
            place: self.place(&item.span),
        };
        let pairs = match item.value {
            Value::Mapping(pairs) => pairs,
            value => {
                let node = Node {
                    value,
                    span: item.span,
                };
                need.service = self.reader.text("needs", &node)?.to_owned();
                return Some(need);
            }
        };
        let mut named = false;
        for (key, _, node) in self.reader.keys(pairs, NEED_KEYS, "a need") {
            match key {
                "service" => {
                    need.service = self.reader.text(key, &node)?.to_owned();
                    need.place = self.place(&node.span);
                    need.span = node.span;
                    named = true;
                }
                "for" => {
                    let phases = [("run", Phase::Run), ("deploy", Phase::Deploy)];
                    need.phase = self.reader.choice(key, &node, &phases)?;
                }
                "strength" => {
                    let strengths = [("hard", Strength::Hard), ("soft", Strength::Soft)];
                    need.claim = self.reader.choice(key, &node, &strengths);
                }
                "reason" => need.reason = self.reader.text(key, &node).map(str::to_owned),
                _ => {}
            }
        }
        if !named {
            let at = need.span.start..need.span.start;
            self.reader
                .error(&at, "the need names no service", Some(NEEDS.to_owned()));
            return None;
        }
        Some(need)
    }
}

/// Does a document say of itself that a program wrote it?
fn is_import(root: &Node) -> bool {
    let Value::Mapping(pairs) = &root.value else {
        return false;
    };
    let is = |node: &Node, wanted: &str| matches!(&node.value, Value::Text(text) if text == wanted);
    pairs
        .iter()
        .any(|(key, value)| is(key, "kind") && is(value, "Import"))
}

/// `file:line:column`.
fn original(text: &str) -> Option<Place> {
    let (rest, column) = text.rsplit_once(':')?;
    let (file, line) = rest.rsplit_once(':')?;
    Some(Place {
        file: Arc::from(file),
        line: line.parse().ok()?,
        column: column.parse().ok()?,
    })
}

/// Why a text cannot be an endpoint of a catalog, and what can.
pub(crate) fn no_endpoint(text: &str) -> Option<(String, String)> {
    address(text).err()
}

/// What an endpoint is reached by, in the language of a policy's targets; of which protocol is said elsewhere.
fn address(text: &str) -> Result<At, (String, String)> {
    if let Some(path) = text.strip_prefix("unix:") {
        let whole = path.starts_with('/') && !path.ends_with('/');
        let named = path.starts_with('@') && path.len() > 1;
        return if whole || named {
            Ok(At::Unix(path.to_owned()))
        } else {
            Err((
                format!("{path:?} is not the path of a unix socket"),
                "write `unix:/run/x.sock`, or `unix:@name` for an abstract one".to_owned(),
            ))
        };
    }
    if let Some(service) = text.strip_prefix("service:") {
        return Err((
            format!("{text:?} is a service, and a service provides endpoints"),
            format!("if it needs {service}, say so under `needs`"),
        ));
    }
    match target::parse(text) {
        Ok((target, ports)) => Ok(At::Net {
            target,
            ports,
            protocol: None,
        }),
        Err(wrong) => {
            // What to do in a policy is no advice here.
            let help = wrong.help.filter(|help| !help.contains("policy"));
            Err((wrong.message, help.unwrap_or_else(|| PROVIDES.to_owned())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_about_policies_is_not_given() {
        for text in ["*", "0.0.0.0/0", "*.", "*:1-65535", "::/0", "a-*.b", ""] {
            let (message, help) = address(text).unwrap_err();
            assert!(!help.contains("policy"), "{text}: {message} ({help})");
        }
    }
}

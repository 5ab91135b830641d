//! From what other programs know of services to a document of a catalog.
//!
//! Each format is read for what the graph can use: services with what they provide and who owns them, and needs.
//! All the rest of a file is nobody's mistake. What comes out is one document (`kind: Import`) that a catalog takes
//! in beside those that people wrote; each service and each need in it keeps the place that it was found at.

mod backstage;
mod jaeger;
mod kubernetes;
mod otlp;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::catalog::{MAX_BYTES, no_endpoint};
use crate::document::yaml::{Document, Documents};
use crate::document::{Diagnostic, Node, Places, Reader, Severity, Value};
use crate::policy::API_VERSION;

/// The annotation for how critical a service is.
const TIER: &str = "blackstart.dev/tier";

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Entities of Backstage, as in `catalog-info.yaml`.
    Backstage,
    /// The dependencies that Jaeger's API gives, as JSON.
    Jaeger,
    /// Metrics of the OpenTelemetry Collector's service graph connector, as OTLP JSON.
    Otlp,
    /// Services of Kubernetes, as `kubectl get services -A -o json` (or `yaml`) prints them.
    Kubernetes,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Backstage => "backstage",
            Self::Jaeger => "jaeger",
            Self::Otlp => "otlp",
            Self::Kubernetes => "kubernetes",
        })
    }
}

/// What a reader of a format has to be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The name that a catalog has for a service, by the name that the file has.
    pub names: BTreeMap<String, String>,
    /// The domain of a Kubernetes cluster; `cluster.local` if not given.
    pub cluster_domain: Option<String>,
}

/// A document of a catalog, made by a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Import {
    #[serde(rename = "apiVersion")]
    version: &'static str,
    kind: &'static str,
    from: String,
    /// In the order of their names.
    services: Vec<Service>,
    /// In the order of who needs what.
    needs: Vec<Need>,
}

/// A service that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct Service {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    provides: Vec<Endpoint>,
}

/// Something that a service provides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Endpoint {
    endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
}

/// A need that was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Need {
    by: String,
    service: String,
    at: String,
}

/// What was read.
#[derive(Debug)]
pub struct Reading {
    /// The document, of everything that could be read.
    pub import: Import,
    /// What is wrong, in the order of the files and of their text.
    pub diagnostics: Vec<Diagnostic>,
    /// Something is missing from the document: at least one of the diagnostics is an error.
    pub partial: bool,
}

impl Import {
    /// How many services and needs there are.
    pub fn counts(&self) -> (usize, usize) {
        (self.services.len(), self.needs.len())
    }

    /// As it is written: JSON, which is YAML too.
    pub fn text(&self) -> String {
        // Texts, numbers and lists of them cannot fail to be written.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Could an import have written this? Only that may be replaced by another one: beside it lie files that people
    /// wrote.
    pub fn wrote(text: &str) -> bool {
        #[derive(Deserialize)]
        struct Head {
            kind: String,
        }
        serde_json::from_str::<Head>(text).is_ok_and(|head| head.kind == "Import")
    }
}

/// Read files of a format: pairs of a file's name, which becomes evidence, and its text.
pub fn read(format: Format, files: &[(&str, &str)], options: &Options) -> Reading {
    let mut found = Found::default();
    let mut diagnostics = Vec::new();
    for (file, text) in files {
        if text.len() > MAX_BYTES {
            let places = Places::new("");
            let mut reader = Reader::new(file, &places);
            let message = format!("the file is larger than {} MiB", MAX_BYTES >> 20);
            let help = "export it in parts: any number of files may be named".to_owned();
            reader.error(&(0..0), message, Some(help));
            diagnostics.append(&mut reader.diagnostics);
            continue;
        }
        for part in parts(format, text) {
            let places = Places::new(part.text);
            let mut of_file = File {
                reader: Reader::new(file, &places),
                line: part.line,
                options,
                found: &mut found,
            };
            of_file.read(format, part.text);
            let of_part = of_file.reader.diagnostics.into_iter();
            diagnostics.extend(of_part.map(|mut diagnostic| {
                diagnostic.line += part.line;
                diagnostic.span =
                    diagnostic.span.start + part.start..diagnostic.span.end + part.start;
                diagnostic
            }));
        }
    }
    let partial = diagnostics
        .iter()
        .any(|diagnostic| diagnostic.severity == Severity::Error);
    Reading {
        import: found.document(format),
        diagnostics,
        partial,
    }
}

/// A piece of a file that is read by itself.
struct Part<'a> {
    text: &'a str,
    /// Bytes, and lines, before it.
    start: usize,
    line: usize,
}

/// The collector's file exporter writes a JSON document to each line; everything else is read as a whole.
fn parts(format: Format, text: &str) -> Vec<Part<'_>> {
    let whole = |line: &str| line.trim_start().starts_with('{') && line.trim_end().ends_with('}');
    let mut start = 0;
    let mut lines = Vec::new();
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if !line.trim().is_empty() {
            lines.push(Part {
                text: line,
                start,
                line: number,
            });
        }
        start += line.len();
    }
    if format == Format::Otlp && lines.len() > 1 && lines.iter().all(|line| whole(line.text)) {
        return lines;
    }
    vec![Part {
        text,
        start: 0,
        line: 0,
    }]
}

/// What was found in all files.
#[derive(Default)]
struct Found {
    services: BTreeMap<String, Service>,
    /// By whom and what; where the need was found first.
    needs: BTreeMap<(String, String), String>,
}

impl Found {
    fn service(&mut self, name: &str) -> &mut Service {
        let service = self.services.entry(name.to_owned()).or_default();
        if service.name.is_empty() {
            name.clone_into(&mut service.name);
        }
        service
    }

    fn document(self, format: Format) -> Import {
        let services = self.services.into_values().map(|mut service| {
            service.provides.sort_unstable();
            service.provides.dedup();
            service
        });
        let needs = self
            .needs
            .into_iter()
            .map(|((by, service), at)| Need { by, service, at });
        Import {
            version: API_VERSION,
            kind: "Import",
            from: format.to_string(),
            services: services.collect(),
            needs: needs.collect(),
        }
    }
}

/// The reading of one file, or of a part of it.
struct File<'r, 'a> {
    reader: Reader<'a>,
    /// Lines before the part.
    line: usize,
    options: &'r Options,
    found: &'r mut Found,
}

impl File<'_, '_> {
    fn read(&mut self, format: Format, text: &str) {
        let places = self.reader.places;
        let mut any = false;
        for document in Documents::foreign(text, places, "file of services") {
            match document {
                Ok(Document { root, odd: None }) if matches!(root.value, Value::Null) => {}
                // What is nothing that can be down is left out whatever stands in it.
                Ok(Document {
                    root,
                    odd: Some(odd),
                }) if !(format == Format::Backstage && backstage::is_silent(&root)) => {
                    any = true;
                    let help = "this document is left out, and those behind it are read".to_owned();
                    self.reader.error(&odd.span, odd.message, Some(help));
                }
                Ok(Document { root, .. }) => {
                    any = true;
                    match format {
                        Format::Backstage => self.backstage(&root),
                        Format::Jaeger => self.jaeger(&root),
                        Format::Otlp => self.otlp(&root),
                        Format::Kubernetes => self.kubernetes(&root),
                    }
                }
                Err(refusal) => {
                    self.reader
                        .error(&refusal.span, refusal.message, refusal.help);
                    return;
                }
            }
        }
        if !any {
            self.reader.error(&(0..0), "the file is empty", None);
        }
    }

    /// `file:line:column` of a place in the text.
    fn at(&self, span: &Range<usize>) -> String {
        let (line, column) = self.reader.places.line_and_column(span.start);
        format!("{}:{}:{column}", self.reader.file, line + self.line)
    }

    /// A service by the name that the file has for it; what its name is in the catalog. A catalog's names are typed
    /// in lists with commas, and printed in sentences.
    fn met(&mut self, name: &str, span: &Range<usize>) -> String {
        let name = match self.options.names.get(name) {
            Some(known) => known.clone(),
            None => {
                let fit = |c: char| !(c == ',' || c.is_whitespace() || c.is_control());
                let fitting: String = name.chars().map(|c| if fit(c) { c } else { '-' }).collect();
                if fitting != name {
                    self.reader.warning(
                        span,
                        format!("{name:?} cannot be a service's name, it becomes {fitting:?}"),
                        Some("give it another one with `--as OLD=NEW`".to_owned()),
                    );
                }
                fitting
            }
        };
        self.found.service(&name);
        name
    }

    /// Something that a service provides; told and left out where a catalog could not have it, since what is written is
    /// read as one.
    fn provided(
        &mut self,
        endpoint: String,
        protocol: Option<&'static str>,
        span: &Range<usize>,
    ) -> Option<Endpoint> {
        if let Some((message, help)) = no_endpoint(&endpoint) {
            self.reader.error(span, message, Some(help));
            return None;
        }
        Some(Endpoint { endpoint, protocol })
    }

    /// What an annotation says of it.
    fn tier(&mut self, node: &Node) -> Option<u32> {
        let tier = text(Some(node)).and_then(|text| text.parse::<u32>().ok());
        let tier = tier.filter(|tier| *tier > 0);
        if tier.is_none() {
            let message = format!("{TIER} is a whole number from 1 on");
            self.reader.error(&node.span, message, None);
        }
        tier
    }

    fn need(&mut self, by: String, service: String, span: &Range<usize>) {
        // A service that calls itself needs nothing else for it.
        if by == service {
            return;
        }
        let at = self.at(span);
        self.found.needs.entry((by, service)).or_insert(at);
    }
}

/// The value of a key of a mapping.
fn get<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    let Value::Mapping(pairs) = &node.value else {
        return None;
    };
    let is = |of: &Node| matches!(&of.value, Value::Text(text) if text == key);
    pairs.iter().find(|(of, _)| is(of)).map(|(_, value)| value)
}

/// The value below keys of mappings in mappings.
fn below<'n>(node: &'n Node, keys: &[&str]) -> Option<&'n Node> {
    keys.iter().try_fold(node, |node, key| get(node, key))
}

fn text(node: Option<&Node>) -> Option<&str> {
    match &node?.value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

/// The items of a list; none of what is no list.
fn items(node: Option<&Node>) -> &[Node] {
    match node.map(|node| &node.value) {
        Some(Value::Sequence(items)) => items,
        _ => &[],
    }
}

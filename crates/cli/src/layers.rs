//! The files of a policy: the host's guardrails, the run's own file, and what they include.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use blackstart_core::agent::Text;
use blackstart_core::catalog::{self, Reading as Catalog};
use blackstart_core::policy::{self, Diagnostic, Document, Layer, Place, Severity};
use blackstart_core::report::PolicySource;
use sha2::{Digest as _, Sha256};

use crate::catalog_files;
use crate::diagnostics::Texts;

/// Where the host's guardrails are, unless `BLACKSTART_GUARDRAILS` says otherwise.
const GUARDRAILS: &str = "/etc/blackstart/policy.d";
/// How many files may include one another in a row.
const MAX_DEPTH: usize = 16;
/// How many files may be included by one, directly or through others.
const MAX_FILES: usize = 256;

/// What has been read so far.
#[derive(Debug, Default, Clone)]
pub(crate) struct Files {
    /// The texts.
    pub(crate) texts: Texts,
    /// Their names, in the order of reading.
    names: Vec<String>,
    /// What is wrong, or ought to be looked at.
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// What is wrong with no place in any text.
    pub(crate) messages: Vec<String>,
}

/// A file that is being read, with those that it includes.
#[derive(Default)]
struct Reading {
    documents: Vec<Document>,
    /// The real path of each file of the layer.
    seen: BTreeSet<PathBuf>,
    /// The files that are being read, by their real paths and by their names: each but the first is included by
    /// the one before.
    around: Vec<(PathBuf, String)>,
}

impl Files {
    /// Could everything be read?
    pub(crate) fn sound(&self) -> bool {
        let wrong = |diagnostic: &Diagnostic| diagnostic.severity == Severity::Error;
        self.messages.is_empty() && !self.diagnostics.iter().any(wrong)
    }

    /// In the order of the files and of their texts.
    pub(crate) fn sort(&self, diagnostics: &mut [Diagnostic]) {
        diagnostics.sort_by_key(|diagnostic| {
            let file = self.names.iter().position(|name| *name == diagnostic.file);
            (file, diagnostic.span.start, diagnostic.span.end)
        });
    }

    /// Where the policy came from.
    pub(crate) fn source(&self) -> PolicySource {
        let mut digest = Sha256::new();
        for text in self.names.iter().filter_map(|name| self.texts.get(name)) {
            digest.update(text);
        }
        PolicySource {
            digest: format!("{:x}", digest.finalize()),
            files: self.names.clone(),
        }
    }

    /// The guardrails of a directory, by name. No directory, no guardrails.
    pub(crate) fn guardrails(&mut self, directory: &Path) -> Vec<Layer> {
        self.guardrails_but(directory, None)
    }

    /// The same, without one of them, which is read by itself.
    pub(crate) fn guardrails_but(&mut self, directory: &Path, one: Option<&Path>) -> Vec<Layer> {
        match yaml_files(directory) {
            Ok((mut paths, others)) => {
                if let Some(one) = one.map(real) {
                    paths.retain(|path| real(path) != one);
                }
                for other in others {
                    self.diagnostics.push(unread(&other));
                }
                paths.iter().map(|path| self.layer(path, true)).collect()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                let shown = directory.display();
                self.messages
                    .push(format!("cannot read the guardrails in {shown}: {error}"));
                Vec::new()
            }
        }
    }

    /// The catalog below a path. What is wrong in it is told here; whether that matters is seen where a policy
    /// asks it for a service.
    pub(crate) fn catalog(&mut self, path: &Path) -> Catalog {
        let found = catalog_files::read(path);
        let files: Vec<(&str, &str)> = found
            .files
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .collect();
        let mut catalog = catalog::read(&files);
        catalog.partial |= !found.problems.is_empty();
        self.messages.extend(found.problems);
        self.diagnostics.append(&mut catalog.diagnostics);
        self.texts.extend(found.files);
        catalog
    }

    /// A file and what it includes.
    pub(crate) fn layer(&mut self, path: &Path, guardrail: bool) -> Layer {
        let mut layer = Layer {
            guardrail,
            checked: false,
            documents: Vec::new(),
        };
        let name = path.to_string_lossy();
        match text_of(path) {
            Err(Unread::Why(why)) => self
                .messages
                .push(format!("cannot read the policy {name}: {why}")),
            Err(Unread::NotText(octets, at)) => self.not_text(path, &octets, at),
            Ok(text) => {
                let mut reading = Reading::default();
                self.read(path, text, &mut reading);
                layer.documents = reading.documents;
            }
        }
        layer
    }

    /// A policy that somebody else has read, with what it includes: nothing is opened by the names in it.
    pub(crate) fn given(&mut self, texts: Vec<Text>) -> Layer {
        let mut layer = Layer {
            guardrail: false,
            checked: false,
            documents: Vec::new(),
        };
        for Text { name, text } in texts {
            if self.texts.contains_key(&name) {
                self.messages
                    .push(format!("a policy is called {name} as another file is that is read here; give it another name"));
                continue;
            }
            let (mut document, mut diagnostics) = policy::read(&text, &name);
            document.include.clear();
            self.diagnostics.append(&mut diagnostics);
            self.names.push(name.clone());
            self.texts.insert(name, text);
            layer.documents.push(document);
        }
        layer
    }

    /// What was read, to be handed over: in the order of reading.
    pub(crate) fn texts_in_order(&self) -> Vec<Text> {
        let named = self.names.iter().filter_map(|name| {
            let text = self.texts.get(name)?.clone();
            Some(Text {
                name: name.clone(),
                text,
            })
        });
        named.collect()
    }

    fn read(&mut self, path: &Path, text: String, reading: &mut Reading) {
        let name = path.to_string_lossy().into_owned();
        let real = real(path);
        reading.seen.insert(real.clone());
        let (mut document, mut diagnostics) = policy::read(&text, &name);
        self.diagnostics.append(&mut diagnostics);
        self.names.push(name.clone());
        self.texts.insert(name.clone(), text);
        let includes = std::mem::take(&mut document.include);
        reading.documents.push(document);
        reading.around.push((real, name));
        let directory = path.parent().unwrap_or(Path::new(""));
        for include in includes {
            let path = directory.join(&include.value);
            if let Err((message, help)) = self.include(&path, &include.value, reading) {
                self.wrong(&include.place, message, help);
            }
        }
        reading.around.pop();
    }

    fn include(
        &mut self,
        path: &Path,
        written: &str,
        reading: &mut Reading,
    ) -> Result<(), (String, Option<&'static str>)> {
        let text = match text_of(path) {
            Ok(text) => text,
            Err(Unread::Why(why)) => return Err((format!("cannot read {written}: {why}"), None)),
            Err(Unread::NotText(octets, at)) => {
                self.not_text(path, &octets, at);
                return Ok(());
            }
        };
        let real = real(path);
        if let Some(at) = reading.around.iter().position(|(file, _)| *file == real) {
            let around = reading.around[at..].iter();
            let mut chain: Vec<&str> = around.map(|(_, name)| name.as_str()).collect();
            chain.push(chain[0]);
            let message = format!("the files include one another: {}", chain.join(" → "));
            return Err((message, Some("remove one of these includes")));
        }
        // What two files include is there once.
        if reading.seen.contains(&real) {
            return Ok(());
        }
        if reading.around.len() >= MAX_DEPTH {
            let message = format!("more than {MAX_DEPTH} files include one another in a row");
            return Err((message, None));
        }
        if reading.seen.len() > MAX_FILES {
            let message = format!("more than {MAX_FILES} files are included");
            return Err((message, None));
        }
        self.read(path, text, reading);
        Ok(())
    }

    /// A file that is text up to this octet only.
    fn not_text(&mut self, path: &Path, octets: &[u8], at: usize) {
        let name = path.to_string_lossy().into_owned();
        let text = String::from_utf8_lossy(octets).into_owned();
        let before = &text[..at];
        let line_at = before.rfind('\n').map_or(0, |end| end + 1);
        self.diagnostics.push(Diagnostic {
            severity: Severity::Error,
            message: format!(
                "a policy is UTF-8, and the octet 0x{:02x} here is not",
                octets[at]
            ),
            file: name.clone(),
            span: at..at + char::REPLACEMENT_CHARACTER.len_utf8(),
            line: before.matches('\n').count() + 1,
            column: before[line_at..].chars().count() + 1,
            help: Some("save the file as UTF-8".to_owned()),
        });
        self.names.push(name.clone());
        self.texts.insert(name, text);
    }

    fn wrong(&mut self, place: &Place, message: String, help: Option<&str>) {
        let help = help.map(str::to_owned);
        self.diagnostics
            .push(place.diagnostic(Severity::Error, message, help));
    }
}

/// Where the guardrails are, from the value of `BLACKSTART_GUARDRAILS`.
pub(crate) fn guardrail_directory(variable: Option<&OsStr>) -> PathBuf {
    match variable.filter(|value| !value.is_empty()) {
        Some(value) => PathBuf::from(value),
        None => PathBuf::from(GUARDRAILS),
    }
}

/// A path by which the same file is known again.
pub(crate) fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Is it one of the host's guardrails?
pub(crate) fn lies_in(path: &Path, directory: &Path) -> bool {
    real(path).parent() == Some(&real(directory))
}

/// The files of a directory that are policies, sorted by name; and those that look as if they were meant to be.
fn yaml_files(directory: &Path) -> io::Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let mut paths = Vec::new();
    let mut others = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        match path.extension().and_then(OsStr::to_str) {
            _ if hidden => {}
            Some("yaml") => paths.push(path),
            Some("yml" | "json") => others.push(path),
            _ => {}
        }
    }
    paths.sort();
    others.sort();
    Ok((paths, others))
}

fn unread(path: &Path) -> Diagnostic {
    Diagnostic {
        severity: Severity::Warning,
        message: "this file is not read: a guardrail's name ends in `.yaml`".to_owned(),
        file: path.to_string_lossy().into_owned(),
        span: 0..0,
        line: 1,
        column: 1,
        help: Some("rename it, or take it out of the directory".to_owned()),
    }
}

/// Why a file is not read.
enum Unread {
    Why(String),
    /// What it holds is UTF-8 up to this octet only.
    NotText(Vec<u8>, usize),
}

/// No more than what a policy may hold is taken in, whatever the file is.
fn text_of(path: &Path) -> Result<String, Unread> {
    let why = |error: &dyn Display| Unread::Why(error.to_string());
    let mut bytes = Vec::new();
    let most = policy::MAX_BYTES as u64 + 1;
    File::open(path)
        .and_then(|file| file.take(most).read_to_end(&mut bytes))
        .map_err(|error| why(&error))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        match error.into_bytes() {
            // Cut within a character, since it is too long: that is what is to be told.
            octets if octets.len() > policy::MAX_BYTES => {
                let most = policy::MAX_BYTES >> 20;
                Unread::Why(format!("it has more than {most} MiB"))
            }
            octets => Unread::NotText(octets, at),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: blackstart.dev/v1\nkind: Policy\n";

    /// A directory with these files, each with the head of a policy and this text.
    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{HEAD}{text}")).unwrap();
        }
        dir
    }

    /// What was said, with the directory taken out.
    fn told(dir: &tempfile::TempDir, files: &Files) -> Vec<String> {
        let prefix = format!("{}/", dir.path().display());
        let diagnostics = files.diagnostics.iter().map(ToString::to_string);
        diagnostics
            .chain(files.messages.iter().cloned())
            .map(|text| text.replace(&prefix, ""))
            .collect()
    }

    fn rules(layer: &Layer) -> Vec<&str> {
        let rules = layer.documents.iter().flat_map(|document| &document.rules);
        rules.map(|rule| &*rule.text).collect()
    }

    #[test]
    fn what_is_included_comes_once_and_from_where_it_is_named() {
        let dir = directory(&[
            (
                "p.yaml",
                "include: [packs/a.yaml, packs/b.yaml]\nrules: [deny: p.example]\n",
            ),
            (
                "packs/a.yaml",
                "include: [c.yaml]\nrules: [deny: a.example]\n",
            ),
            (
                "packs/b.yaml",
                "include: [../packs/c.yaml]\nrules: [deny: b.example]\n",
            ),
            ("packs/c.yaml", "rules: [deny: c.example]\n"),
        ]);
        let mut files = Files::default();
        let layer = files.layer(&dir.path().join("p.yaml"), false);
        assert!(files.sound(), "{:?}", told(&dir, &files));
        assert_eq!(
            rules(&layer),
            [
                "deny p.example",
                "deny a.example",
                "deny c.example",
                "deny b.example"
            ]
        );
        assert_eq!(files.source().files.len(), 4);
    }

    #[test]
    fn a_loop_of_includes_is_told_at_its_last_step() {
        let dir = directory(&[
            ("p.yaml", "include: [a.yaml]\n"),
            ("a.yaml", "include:\n  - b.yaml\n  - absent.yaml\n"),
            ("b.yaml", "include: [./a.yaml]\n"),
            ("self.yaml", "include: [self.yaml]\n"),
        ]);
        let mut files = Files::default();
        files.layer(&dir.path().join("p.yaml"), false);
        assert_eq!(
            told(&dir, &files),
            [
                "b.yaml:3:11: error: the files include one another: a.yaml → b.yaml → a.yaml (remove one of these includes)",
                "a.yaml:5:5: error: cannot read absent.yaml: No such file or directory (os error 2)",
            ]
        );
        let mut files = Files::default();
        files.layer(&dir.path().join("self.yaml"), false);
        assert_eq!(files.diagnostics.len(), 1);
    }

    #[test]
    fn includes_end() {
        let deep: Vec<_> = (0..40)
            .map(|n| (format!("{n}.yaml"), format!("include: [{}.yaml]\n", n + 1)))
            .collect();
        let wide = (0..400).map(|n| format!("  - {n}.yaml\n"));
        let wide = format!("include:\n{}", wide.collect::<String>());
        let plain: Vec<_> = (0..400)
            .map(|n| (format!("wide/{n}.yaml"), String::new()))
            .collect();
        let all: Vec<_> = deep
            .iter()
            .chain(&plain)
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect();
        let dir = directory(&all);
        let mut files = Files::default();
        files.layer(&dir.path().join("0.yaml"), false);
        assert_eq!(
            told(&dir, &files),
            ["15.yaml:3:11: error: more than 16 files include one another in a row"]
        );
        fs::write(dir.path().join("wide/p.yaml"), format!("{HEAD}{wide}")).unwrap();
        let mut files = Files::default();
        let layer = files.layer(&dir.path().join("wide/p.yaml"), false);
        assert_eq!(layer.documents.len(), 1 + MAX_FILES);
        assert!(!files.sound());
    }

    #[test]
    fn guardrails_are_read_in_the_order_of_their_names() {
        let dir = directory(&[
            ("20-b.yaml", "rules: [deny: b.example]\n"),
            ("10-a.yaml", "rules: [{deny: a.example, final: true}]\n"),
            ("30-c.yml", "rules: [deny: c.example]\n"),
            (".hidden.yaml", "rules: [deny: d.example]\n"),
            ("README", ""),
        ]);
        let mut files = Files::default();
        let layers = files.guardrails(dir.path());
        assert!(files.sound());
        let texts: Vec<_> = layers.iter().flat_map(rules).collect();
        assert_eq!(texts, ["deny a.example", "deny b.example"]);
        assert!(layers.iter().all(|layer| layer.guardrail));
        assert_eq!(
            told(&dir, &files),
            [
                "30-c.yml:1:1: warning: this file is not read: a guardrail's name ends in `.yaml` (rename it, or take it out of the directory)"
            ]
        );
        let mut none = Files::default();
        assert!(none.guardrails(&dir.path().join("absent")).is_empty() && none.sound());
        let mut file = Files::default();
        assert!(file.guardrails(&dir.path().join("README")).is_empty() && !file.sound());
    }

    #[test]
    fn an_unreadable_file_says_why() {
        let dir = directory(&[]);
        let mut files = Files::default();
        let latin1 = dir.path().join("latin1.yaml");
        fs::write(&latin1, b"# \xc3\xa4\nkind: \xe4").unwrap();
        files.layer(&dir.path().join("absent.yaml"), false);
        files.layer(dir.path(), false);
        files.layer(&latin1, false);
        let includes = dir.path().join("p.yaml");
        fs::write(&includes, format!("{HEAD}include: [latin1.yaml]\n")).unwrap();
        files.layer(&includes, false);
        assert!(files.messages[0].contains("No such file"), "{files:?}");
        assert!(files.messages[1].contains("directory"), "{files:?}");
        assert_eq!(files.messages.len(), 2);
        let place = "latin1.yaml:2:7: error: a policy is UTF-8, and the octet 0xe4 here is not (save the file as UTF-8)";
        assert_eq!(told(&dir, &files)[..2], [place, place]);
    }
}

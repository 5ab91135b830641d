//! `graph check`: which findings are new, and how that is told to whoever waits for a build.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use blackstart_core::graph::Graph;
use blackstart_core::graph::findings::GraphFinding;
use blackstart_core::report::Severity;
use serde_json::{Value, json};

use super::missing::Missing;
use crate::args::{FailOn, Format, GraphCheck};
use crate::output::Output;
use crate::plain::plain;
use crate::summary::counted;
use crate::{FAILED, finish};

/// Something is new, or unread.
const NEW: u8 = 1;

/// What is judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) graph: &'a Graph,
    pub(super) found: &'a [GraphFinding],
    pub(super) missing: Missing<'a>,
    /// A file to point at where no file tells of a finding.
    pub(super) source: Option<&'a str>,
}

/// A finding, and what the gate makes of it.
struct One<'a> {
    finding: &'a GraphFinding,
    /// The baseline does not have it.
    new: bool,
    /// It is new, and bad enough.
    fails: bool,
}

/// The findings, with which of them are new.
struct Judged<'a> {
    given: Given<'a>,
    found: Vec<One<'a>>,
    /// What there was to compare with.
    baseline: Option<&'a Path>,
    /// Paths below it are written from there: that is how whoever reads them knows the files.
    directory: Option<String>,
}

/// Compares, writes and prints.
pub(super) fn check(typed: &GraphCheck, given: Given<'_>, output: Output) -> u8 {
    let found = given.found;
    let partial = given.missing.partial;
    if let (Some(path), true) = (&typed.baseline, typed.update_baseline) {
        if partial {
            output.error("the baseline is left as it is: findings of what could not be read would be missing from it");
            return NEW;
        }
        return match fs::write(path, written(found)) {
            Ok(()) => {
                let text = format!("{} findings are known from here on\n", found.len());
                finish(output, &text, 0)
            }
            Err(error) => cannot_write(path, &error, output),
        };
    }
    let known = match typed.baseline.as_deref().map(known).transpose() {
        Ok(known) => known.unwrap_or_default(),
        Err(why) => {
            output.error(&plain(&why));
            return FAILED;
        }
    };
    let least = match typed.fail_on {
        FailOn::Info => Severity::Info,
        FailOn::Warning => Severity::Warning,
        FailOn::Error => Severity::Error,
    };
    let judged = found.iter().map(|finding| {
        let new = !known.contains(&finding.id);
        One {
            finding,
            new,
            fails: new && finding.severity >= least,
        }
    });
    let here = std::env::current_dir().ok();
    let judged = Judged {
        given,
        found: judged.collect(),
        baseline: typed.baseline.as_deref(),
        directory: here.map(|path| format!("{}/", path.display())),
    };
    for (path, text) in [
        (&typed.sarif, format!("{:#}\n", judged.sarif())),
        (&typed.markdown, judged.markdown()),
    ] {
        if let Some(path) = path
            && let Err(error) = fs::write(path, text)
        {
            return cannot_write(path, &error, output);
        }
    }
    let mut text = match typed.format {
        Format::Human => judged.human(output),
        Format::Json => format!("{:#}\n", judged.document()),
    };
    match (typed.annotations, typed.format) {
        (false, _) => {}
        (true, Format::Human) => text.push_str(&judged.annotations()),
        // Behind a document they would spoil it. GitHub reads both streams.
        (true, Format::Json) => output.say(&judged.annotations()),
    }
    let fails = judged.found.iter().any(|each| each.fails);
    finish(output, &text, if fails || partial { NEW } else { 0 })
}

fn cannot_write(path: &Path, error: &std::io::Error, output: Output) -> u8 {
    output.error(&format!(
        "cannot write {}: {error}",
        plain(&path.to_string_lossy())
    ));
    FAILED
}

/// The ids in a baseline. A line begins with one; `#` begins a remark.
fn known(path: &Path) -> Result<BTreeSet<String>, String> {
    let text = fs::read_to_string(path).map_err(|error| {
        format!(
            "cannot read the baseline {}: {error}; make one with --update-baseline",
            path.display()
        )
    })?;
    let mut ids = BTreeSet::new();
    for (number, line) in text.lines().enumerate() {
        let Some(id) = line
            .split_whitespace()
            .next()
            .filter(|id| !id.starts_with('#'))
        else {
            continue;
        };
        if id.len() != 16 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!(
                "{}:{}: {id:?} is not the id of a finding; a line begins with 16 hexadecimal digits, or with #",
                path.display(),
                number + 1
            ));
        }
        ids.insert(id.to_owned());
    }
    Ok(ids)
}

fn written(found: &[GraphFinding]) -> String {
    let mut text = String::from(
        "# Findings of `blackstart graph check` that are known. Made by --update-baseline; a line may be\n# removed by hand once the finding is mended.\n",
    );
    let mut lines: Vec<_> = found
        .iter()
        .map(|each| format!("{}  {}  {}\n", each.id, each.kind, plain(&each.title)))
        .collect();
    lines.sort();
    lines.dedup();
    text.extend(lines);
    text
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "note",
    }
}

impl Judged<'_> {
    /// What is new: what fails first, as the worst of all findings come first.
    fn unknown(&self) -> impl Iterator<Item = &GraphFinding> {
        self.found
            .iter()
            .filter(|each| each.new)
            .map(|each| each.finding)
    }

    fn counts(&self) -> String {
        let all = counted(self.found.len() as u64, "finding");
        let new = self.unknown().count();
        let fail = self.found.iter().filter(|each| each.fails).count();
        match new - fail {
            0 => format!("{new} new of {all}"),
            mild => format!("{new} new of {all}, {mild} of them below the severity that fails"),
        }
    }

    fn human(&self, output: Output) -> String {
        let paint = output.out;
        let mut out = String::new();
        for each in self.unknown() {
            let severity = match each.severity {
                Severity::Error => paint.bad("error"),
                Severity::Warning => paint.doubtful("warning"),
                Severity::Info => "note".to_owned(),
            };
            let _ = writeln!(out, "{severity}: {}", plain(&each.title));
            let _ = writeln!(out, "  id    {}  ({})", each.id, each.kind);
            if let Some(place) = &each.place {
                let _ = writeln!(out, "  at    {}", plain(&place.to_string()));
            }
            if let Some(owner) = &each.owner {
                let _ = writeln!(out, "  owner {}", plain(owner));
            }
            let _ = writeln!(out, "  fix   {}", plain(&each.fix));
        }
        out.push_str(&self.counts());
        out.push('\n');
        self.given.missing.below(out, paint)
    }

    fn document(&self) -> Value {
        let name = |id| &self.given.graph.node(id).name;
        let one = |one: &One<'_>| {
            let each = one.finding;
            json!({
                "id": each.id,
                "kind": each.kind,
                "severity": each.severity,
                "title": each.title,
                "owner": each.owner,
                "about": [name(each.about.0), name(each.about.1)],
                "loop_kind": each.loop_kind.map(|kind| kind.as_str()),
                "runs": each.runs,
                "file": each.place.as_ref().map(|place| &*place.file),
                "line": each.place.as_ref().map(|place| place.line),
                "column": each.place.as_ref().map(|place| place.column),
                "fix": each.fix,
                "new": one.new,
                "fails": one.fails,
            })
        };
        let mut document = json!({
            "schema_version": 1,
            "findings": self.found.iter().map(one).collect::<Vec<_>>(),
        });
        self.given.missing.into(&mut document);
        document
    }

    /// A path as whoever reads of it knows the file.
    fn path<'p>(&self, path: &'p str) -> &'p str {
        let below = self
            .directory
            .as_deref()
            .and_then(|here| path.strip_prefix(here));
        let below = below.unwrap_or(path);
        below.strip_prefix("./").unwrap_or(below)
    }

    /// Where a finding is. A code scanner refuses a whole document for one result without a place.
    fn location(&self, finding: &GraphFinding) -> Option<Value> {
        let (file, line, column) = match &finding.place {
            Some(place) => (place.file.to_string(), place.line, place.column),
            None => {
                let baseline = self
                    .baseline
                    .map(|path| path.to_string_lossy().into_owned());
                let source = self.given.source.map(str::to_owned);
                (baseline.or(source)?, 1, 1)
            }
        };
        Some(json!({
            "physicalLocation": {
                "artifactLocation": { "uri": uri(self.path(&file)) },
                "region": { "startLine": line, "startColumn": column },
            }
        }))
    }

    /// SARIF 2.1.0 (OASIS). A finding of the baseline is `unchanged`; without one, nothing is said of that.
    fn sarif(&self) -> Value {
        let kinds: BTreeSet<&str> = self.found.iter().map(|each| each.finding.kind).collect();
        let rules: Vec<Value> = kinds.iter().map(|kind| json!({ "id": kind })).collect();
        let one = |one: &One<'_>| {
            let each = one.finding;
            let mut result = json!({
                "ruleId": each.kind,
                "level": word(each.severity),
                "message": { "text": format!("{}. {}", each.title, each.fix) },
                "partialFingerprints": { "blackstart/v1": each.id },
                "locations": self.location(each).into_iter().collect::<Vec<_>>(),
            });
            if self.baseline.is_some() {
                result["baselineState"] = if one.new { "new" } else { "unchanged" }.into();
            }
            result
        };
        let notes = self.given.missing.sentences();
        let notes = notes
            .iter()
            .map(|text| json!({ "level": "warning", "message": { "text": text } }));
        json!({
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [{
                "tool": { "driver": {
                    "name": "blackstart",
                    "version": env!("CARGO_PKG_VERSION"),
                    "rules": rules,
                } },
                "columnKind": "unicodeCodePoints",
                "invocations": [{
                    "executionSuccessful": !self.given.missing.partial,
                    "toolExecutionNotifications": notes.collect::<Vec<_>>(),
                }],
                "results": self.found.iter().map(one).collect::<Vec<_>>(),
            }],
        })
    }

    fn markdown(&self) -> String {
        let mut out = format!("## Blackstart: {}\n\n", self.counts());
        let lacks = self.given.missing.sentences();
        for lack in &lacks {
            let _ = writeln!(out, "> **Warning:** {}\n", markdown(lack));
        }
        if self.found.is_empty() {
            out.push_str(match lacks.is_empty() {
                true => "No circle, and nothing else to look at.\n",
                false => "Nothing was found in what could be read.\n",
            });
            return out;
        }
        out.push_str("| | severity | finding | owner | fix |\n|---|---|---|---|---|\n");
        for one in &self.found {
            let each = one.finding;
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} |",
                if one.new { "**new**" } else { "" },
                word(each.severity),
                markdown(&each.title),
                markdown(each.owner.as_deref().unwrap_or("")),
                markdown(&each.fix)
            );
        }
        out
    }

    /// Workflow commands of GitHub Actions, for what is new.
    fn annotations(&self) -> String {
        let mut out = String::new();
        for each in self.unknown() {
            let level = match each.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Info => "notice",
            };
            let mut properties = vec![format!("title={}", property(each.kind))];
            if let Some(place) = &each.place {
                properties.push(format!("file={}", property(self.path(&place.file))));
                properties.push(format!("line={}", place.line));
                properties.push(format!("col={}", place.column));
            }
            let _ = writeln!(
                out,
                "::{level} {}::{}",
                properties.join(","),
                data(&format!("{}. {}", each.title, each.fix))
            );
        }
        out
    }
}

/// A path as a URI reference (RFC 3986).
fn uri(path: &str) -> String {
    path.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

/// What parts two letters and shows nothing: what looks like an address, a person or an issue is no link then.
const PARTED: &str = "<!-- -->";

/// Text in a cell of a table: no markup, no link, no end of the cell.
fn markdown(text: &str) -> String {
    let text = plain(text);
    // What is bare and becomes a link: `www.x`, `https://x`, `a@b`, `#1`.
    let links = |at: usize, c: char| match c {
        '@' | '#' => true,
        '.' => at
            .checked_sub(3)
            .and_then(|from| text.get(from..at))
            .is_some_and(|www| www.eq_ignore_ascii_case("www")),
        '/' => text[..at].ends_with(':'),
        _ => false,
    };
    text.char_indices()
        .map(|(at, c)| {
            let escaped = escaped(c);
            match (links(at, c), c) {
                (false, _) => escaped,
                (true, '@' | '#') => format!("{escaped}{PARTED}"),
                (true, _) => format!("{PARTED}{escaped}"),
            }
        })
        .collect()
}

fn escaped(c: char) -> String {
    match c {
        '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '(' | ')' | '#' | '+' | '!' | '|'
        | '~' => format!("\\{c}"),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '&' => "&amp;".to_owned(),
        '@' => "&#64;".to_owned(),
        c => c.to_string(),
    }
}

/// The message of a workflow command.
fn data(text: &str) -> String {
    plain(text)
        .replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

/// A property of a workflow command.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stay_texts() {
        assert_eq!(
            markdown("<b>|[x](y)@z"),
            "&lt;b&gt;\\|\\[x\\]\\(y\\)&#64;<!-- -->z"
        );
        assert_eq!(
            markdown("WWW.evil.example:443"),
            "WWW<!-- -->.evil.example:443"
        );
        assert_eq!(markdown("http://x/a b.www"), "http:<!-- -->//x/a b.www");
        assert_eq!(markdown("a.b:443, c/d, 1:2"), "a.b:443, c/d, 1:2");
        assert_eq!(property("a:b,c%\n"), "a%3Ab%2Cc%25\\n");
        assert_eq!(data("a\u{202e}b\u{1b}[31m"), "a\\u{202e}b\\x1b[31m");
        assert_eq!(uri("a b/ü.yaml"), "a%20b/%C3%BC.yaml");
    }

    #[test]
    fn a_baseline_says_what_is_wrong_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b");
        fs::write(&path, "# known\n0123456789abcdef  loop  x\n\nnot-an-id\n").unwrap();
        let why = known(&path).unwrap_err();
        assert!(why.contains("b:4: \"not-an-id\" is not the id"), "{why}");
        fs::write(&path, "0123456789abcdef  loop  x\n").unwrap();
        assert_eq!(known(&path).unwrap().len(), 1);
    }
}
